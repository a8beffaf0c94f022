"""What a job takes along: the code, the example configurations and the user's own file, nothing else.

A job's folder is copied to every node; sending the user's whole working directory would take data, runs and
environments with it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tkd_search.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_CONFIGS = _PACKAGE.parent / "configs"
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


def stage(folder: Path, argv: Sequence[str]) -> list[str]:
    """Fill an empty folder with what the job needs.

    Args:
        folder: becomes the job's working directory.
        argv: arguments of ``python -m tkd_search.run``.

    Returns:
        The arguments as they have to read there: ``--config`` points at the copy.

    Raises:
        UserError: where the file that ``--config`` names is missing.
    """
    shutil.copytree(_PACKAGE, folder / "tkd_search", ignore=_IGNORED)
    if _CONFIGS.is_dir():
        shutil.copytree(_CONFIGS, folder / "configs", ignore=_IGNORED)
    config = option(argv, "--config")
    if config is None:
        return list(argv)
    path = Path(config)
    if not path.is_file():
        raise UserError(
            "--config", f"no file {path}", "an experiment's YAML file, such as configs/digits.yaml"
        )
    (folder / "experiment").mkdir()
    shutil.copy(path, folder / "experiment" / path.name)
    return [*without_option(argv, "--config"), "--config", f"experiment/{path.name}"]
