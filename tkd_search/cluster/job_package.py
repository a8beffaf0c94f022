"""Folder of a Ray job: the code, the example configurations, the user's configuration and F's weights.

Ray copies the folder to every node. The user's whole working directory would include data, runs and
environments.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tkd_search.config.yaml_text import read_yaml
from tkd_search.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_CONFIGS = _PACKAGE.parent / "configs"
MAX_WEIGHTS_BYTES = 400_000_000
"""Ray refuses a job folder of more than 500 MiB."""
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def option(argv: Sequence[str], name: str) -> str | None:
    """Return the last value of a command-line option, given as ``--name value`` or ``--name=value``."""
    found = None
    for index, word in enumerate(argv):
        if word == name and index + 1 < len(argv):
            found = argv[index + 1]
        elif word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


def without_option(argv: Sequence[str], name: str) -> list[str]:
    """Return the arguments without any occurrence of an option that takes a value."""
    kept: list[str] = []
    skip = False
    for word in argv:
        if skip or word.startswith(f"{name}="):
            skip = False
            continue
        if word == name:
            skip = True
            continue
        kept.append(word)
    return kept


def overrides(argv: Sequence[str]) -> dict[str, str]:
    """Return the ``--set key=value`` options, key → unparsed value."""
    pairs: dict[str, str] = {}
    for index, word in enumerate(argv):
        text = argv[index + 1] if word == "--set" and index + 1 < len(argv) else word.removeprefix("--set=")
        if (word == "--set" or word.startswith("--set=")) and "=" in text:
            key, value = text.split("=", 1)
            pairs[key] = value
    return pairs


def setting_text(argv: Sequence[str], section: str, key: str) -> str | None:
    """Return a setting from the command line or the ``--config`` file; None if it is unset or no string."""
    value: object = overrides(argv).get(f"{section}.{key}")
    config = option(argv, "--config")
    if value is None and config is not None and Path(config).is_file():
        part = read_yaml(Path(config)).get(section)
        value = part.get(key) if isinstance(part, dict) else None
    return value if isinstance(value, str) else None


def fill_job_folder(folder: Path, argv: Sequence[str]) -> list[str]:
    """Copy the files that the job needs into an empty folder.

    Args:
        folder: becomes the job's working directory.
        argv: arguments of ``python -m tkd_search.run``.

    Returns:
        The arguments for the job, with ``--config`` and the ``weights`` of F and student naming the copies.

    Raises:
        UserError: the ``--config`` file is missing, or a weights file exceeds ``MAX_WEIGHTS_BYTES``.
    """
    shutil.copytree(_PACKAGE, folder / "tkd_search", ignore=_IGNORED)
    if _CONFIGS.is_dir():
        shutil.copytree(_CONFIGS, folder / "configs", ignore=_IGNORED)
    argv = [*argv, *_copy_weights(folder, argv, "big_model"), *_copy_weights(folder, argv, "student")]
    config = option(argv, "--config")
    if config is None:
        return argv
    path = Path(config)
    if not path.is_file():
        raise UserError(
            "--config", f"{path}, which does not exist", "a YAML file such as configs/digits.yaml"
        )
    (folder / "experiment").mkdir()
    shutil.copy(path, folder / "experiment" / path.name)
    return [*without_option(argv, "--config"), "--config", f"experiment/{path.name}"]


def _copy_weights(folder: Path, argv: Sequence[str], section: str) -> list[str]:
    """Copy the local file that ``weights`` of a section names; return the option that names the copy."""
    file = Path(setting_text(argv, section, "weights") or "").expanduser()
    if not file.is_file():
        return []
    if file.stat().st_size > MAX_WEIGHTS_BYTES:
        raise UserError(
            f"{section}.weights",
            f"{file} of {file.stat().st_size / 1e6:.0f} MB",
            f"at most {MAX_WEIGHTS_BYTES / 1e6:.0f} MB in a job's folder",
            "copy it to the same path on every node, and start the run on the head",
        )
    copy = Path("weights", section, file.name)
    (folder / copy.parent).mkdir(parents=True)
    shutil.copy(file, folder / copy)
    return ["--set", f"{section}.weights={copy}"]
