"""What a job takes along: the code, the example configurations, the user's own file and F's, nothing else.

A job's folder is copied to every node; sending the user's whole working directory would take data, runs and
environments with it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from tkd_search.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_CONFIGS = _PACKAGE.parent / "configs"
MOST_WEIGHTS_BYTES = 400_000_000
"""Ray refuses a job's folder of more than 500 MiB."""
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def option(argv: Sequence[str], name: str) -> str | None:
    """The value of a command-line option written ``--name value`` or ``--name=value``; the last one wins."""
    found = None
    for index, word in enumerate(argv):
        if word == name and index + 1 < len(argv):
            found = argv[index + 1]
        elif word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


def without_option(argv: Sequence[str], name: str) -> list[str]:
    """The command line less every occurrence of an option that takes a value."""
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
    """The ``--set key=value`` options as written."""
    pairs: dict[str, str] = {}
    for index, word in enumerate(argv):
        text = argv[index + 1] if word == "--set" and index + 1 < len(argv) else word.removeprefix("--set=")
        if (word == "--set" or word.startswith("--set=")) and "=" in text:
            key, value = text.split("=", 1)
            pairs[key] = value
    return pairs


def written(argv: Sequence[str], section: str, key: str) -> str | None:
    """What the command line, or else the file of ``--config``, gives to a setting; None if no text."""
    value: object = overrides(argv).get(f"{section}.{key}")
    config = option(argv, "--config")
    if value is None and config is not None and Path(config).is_file():
        tree = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        part = tree.get(section) if isinstance(tree, dict) else None
        value = part.get(key) if isinstance(part, dict) else None
    return value if isinstance(value, str) else None


def stage(folder: Path, argv: Sequence[str]) -> list[str]:
    """Fill an empty folder with what the job needs.

    Args:
        folder: becomes the job's working directory.
        argv: arguments of ``python -m tkd_search.run``.

    Returns:
        The arguments as they have to read there: ``--config`` and ``big_model.weights`` point at the copies.

    Raises:
        UserError: where the file that ``--config`` names is missing, or F's weights are too large to send.
    """
    shutil.copytree(_PACKAGE, folder / "tkd_search", ignore=_IGNORED)
    if _CONFIGS.is_dir():
        shutil.copytree(_CONFIGS, folder / "configs", ignore=_IGNORED)
    argv = [*argv, *_staged_weights(folder, argv)]
    config = option(argv, "--config")
    if config is None:
        return argv
    path = Path(config)
    if not path.is_file():
        raise UserError(
            "--config", f"no file {path}", "an experiment's YAML file, such as configs/digits.yaml"
        )
    (folder / "experiment").mkdir()
    shutil.copy(path, folder / "experiment" / path.name)
    return [*without_option(argv, "--config"), "--config", f"experiment/{path.name}"]


def _staged_weights(folder: Path, argv: Sequence[str]) -> list[str]:
    """Put F's own file into the job's folder; the option that names the copy."""
    file = Path(written(argv, "big_model", "weights") or "").expanduser()
    if not file.is_file():
        return []
    if file.stat().st_size > MOST_WEIGHTS_BYTES:
        raise UserError(
            "big_model.weights",
            f"{file} of {file.stat().st_size / 1e6:.0f} MB",
            f"at most {MOST_WEIGHTS_BYTES / 1e6:.0f} MB to send along",
            "put it at one path on every node, and give the command on the head",
        )
    (folder / "weights").mkdir()
    shutil.copy(file, folder / "weights" / file.name)
    return ["--set", f"big_model.weights=weights/{file.name}"]
