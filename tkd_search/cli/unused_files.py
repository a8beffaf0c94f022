"""What of a folder of runs nobody needs any more."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tkd_search.cli.run_folders import CACHE_FOLDER, LOCK_FILE, all_runs, disk_bytes, live_driver, record_of

_REBUILT = ("bank-*", "data-*")
CHECKPOINTS = ("checkpoint*", ".checkpoint*")


@dataclass(frozen=True)
class Unused:
    """A file or folder that may go, and why."""

    path: Path
    bytes: int
    reason: str


def find_unused(output: Path, folders: Sequence[Path], *, weights: bool) -> list[Unused]:
    """What may go of these runs and of what all runs under ``output`` share.

    Args:
        output: the folder that holds the runs.
        folders: the runs to look at; live ones and ones without a record are left alone.
        weights: whether the weights of ended trials off the front may go as well. Such a trial never comes
            back onto the front, so the search can still be extended.
    """
    waste: list[Unused] = []
    for folder in folders:
        if live_driver(folder) is None:
            waste += _of_run(folder, weights=weights)
    if all(_finished(folder) for folder in all_runs(output)) and not _any_live(output):
        for pattern in _REBUILT:
            waste += [
                _waste(path, "made again when needed")
                for path in sorted((output / CACHE_FOLDER).glob(pattern))
            ]
    return waste


def remove(waste: Unused) -> None:
    """Delete it; what is gone already is fine."""
    if waste.path.is_dir():
        shutil.rmtree(waste.path, ignore_errors=True)
    else:
        waste.path.unlink(missing_ok=True)


def _of_run(folder: Path, *, weights: bool) -> list[Unused]:
    record = record_of(folder)
    if record is None:
        return []  # killed before its end: it may be resumed from any of its files
    front = {member.trial_id for member in record.front}
    waste = []
    for trial in record.trials:
        place = folder / "trials" / trial.trial_id
        if trial.state == "running" or not place.is_dir():
            continue
        if weights and trial.trial_id not in front:
            waste.append(_waste(place, f"{trial.state}, not on the front"))
        else:
            found = [path for pattern in CHECKPOINTS for path in place.glob(pattern)]
            waste += [_waste(path, f"checkpoint of a trial that is {trial.state}") for path in sorted(found)]
    return waste


def _any_live(output: Path) -> bool:
    """Whether a driver is at work: of a search, or of a comparison, whose folder is no search's."""
    return any(live_driver(lock.parent) is not None for lock in output.glob(f"*/{LOCK_FILE}"))


def _finished(folder: Path) -> bool:
    record = record_of(folder)
    return record is not None and record.status == "complete"


def _waste(path: Path, reason: str) -> Unused:
    return Unused(path, disk_bytes(path), reason)
