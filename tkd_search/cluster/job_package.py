"""Folder of a Ray job: the code, the experiment, the user's own modules, and files of weights.

Ray copies the folder to every node. The user's whole working directory would include data, runs and
environments.
"""

import copy
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tkd_search.config.experiment_file import Config
from tkd_search.config.tree import flatten, put
from tkd_search.config.yaml_text import yaml_text
from tkd_search.errors import UserError
from tkd_search.files import write_text
from tkd_search.models.weights import weights_file

_PACKAGE = Path(__file__).parents[1]
_CONFIGS = _PACKAGE.parent / "configs"
EXPERIMENT_FILE = "experiment.yaml"
MAX_WEIGHTS_BYTES = 400_000_000
"""Ray refuses a job folder of more than 500 MiB."""
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def copy_code(folder: Path) -> None:
    """Copy the package and the example configurations into an empty folder."""
    shutil.copytree(_PACKAGE, folder / "tkd_search", ignore=_IGNORED)
    if _CONFIGS.is_dir():
        shutil.copytree(_CONFIGS, folder / "configs", ignore=_IGNORED)


def copy_experiment(folder: Path, config: Config, changes: Mapping[str, Any]) -> None:
    """Write an experiment into a job's folder, with copies of what it names on this machine.

    These are the files of weights and the user's modules in ``package.module:function`` that are not
    installed in this environment's site-packages.

    Args:
        folder: the job's working directory, with the code.
        config: the experiment.
        changes: dotted key → value for the cluster, written in place of the experiment's.

    Raises:
        UserError: the files of weights exceed ``MAX_WEIGHTS_BYTES`` together.
    """
    tree = copy.deepcopy(dict(config.tree))
    for key, value in {**changes, **_copy_weights(folder, config)}.items():
        put(tree, key, value)
    for source in _own_modules(config):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=_IGNORED)
        else:
            shutil.copy(source, folder)
    write_text(folder / EXPERIMENT_FILE, yaml_text(tree))


def _copy_weights(folder: Path, config: Config) -> dict[str, Any]:
    """Copy the files that ``weights`` of big models and student name; return key → value for the job."""
    changes: dict[str, Any] = {}
    room = MAX_WEIGHTS_BYTES
    for key, value in flatten(config.tree).items():
        if not key.startswith(("big_model.", "student.")) or not key.endswith(".weights"):
            continue
        options = value["choice"] if isinstance(value, dict) else [value]
        files = [weights_file(option or "") for option in options]
        room -= sum(file.stat().st_size for file in files if file)
        if room < 0:
            raise UserError(
                key,
                f"{(MAX_WEIGHTS_BYTES - room) / 1e6:.0f} MB of files with weights",
                f"at most {MAX_WEIGHTS_BYTES / 1e6:.0f} MB in a job's folder",
                "copy them to the same path on every node, and start the run on the head",
            )
        copies = [
            str(_copied(folder, Path("weights", key, str(number)), file)) if file else option
            for number, (file, option) in enumerate(zip(files, options, strict=True))
        ]
        if copies != options:
            changes[key] = {"choice": copies} if isinstance(value, dict) else copies[0]
    return changes


def _copied(folder: Path, place: Path, file: Path) -> Path:
    """Copy a file to a new place below a folder; return its path relative to the folder."""
    (folder / place).mkdir(parents=True)
    shutil.copy(file, folder / place)
    return place / file.name


def _own_modules(config: Config) -> Iterator[Path]:
    """Yield the file or folder of every top-level module that a value names and no installer put there."""
    found: set[Path] = set()
    for value in flatten(config.tree).values():
        for name in value["choice"] if isinstance(value, dict) and "choice" in value else [value]:
            module, colon, function = str(name).partition(":")
            words = [*module.split("."), *function.split(".")]
            if colon and all(word.isidentifier() for word in words):
                found.update(_source_of(words[0]))
    yield from sorted(found)


def _source_of(module: str) -> list[Path]:
    """Return the file or folder of a top-level module; [] where it is installed, ours or not found."""
    spec = importlib.util.find_spec(module)
    if spec is None or module in sys.stdlib_module_names:
        return []
    source = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or "")).absolute()
    installed = {"site-packages", "dist-packages"} & set(source.parts)
    return [] if installed or source == _PACKAGE or not source.exists() else [source]
