"""Find files that are not needed any more: checkpoints, weights off the front, banks, prepared data."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tkd_search.engine.run_dir.checkpoint_files import CHECKPOINT_PATTERNS
from tkd_search.engine.run_dir.find_runs import CACHE_FOLDER, all_runs, disk_bytes, record_of
from tkd_search.engine.run_dir.run_lock import DRIVER_FILE, live_driver

_REBUILT = ("bank-*", ".bank-*", "data-*")


@dataclass(frozen=True)
class Unused:
    """A file or folder that can be removed, and why."""

    path: Path
    bytes: int
    reason: str


def find_unused(output: Path, folders: Sequence[Path], *, weights: bool) -> list[Unused]:
    """Return what can be removed of these runs, and of what all runs under ``output`` share.

    Args:
        output: the folder that holds the runs.
        folders: the runs to examine; those that are live or have no record are skipped.
        weights: whether to include the weights of ended trials off the front. Such a trial never returns to
            the front, so the search can still be extended.
    """
    unused: list[Unused] = []
    for folder in folders:
        if live_driver(folder) is None:
            unused += _of_run(folder, weights=weights)
    if all(_finished(folder) for folder in all_runs(output)) and not _any_live(output):
        for pattern in _REBUILT:
            unused += [
                _unused(path, "made again when needed")
                for path in sorted((output / CACHE_FOLDER).glob(pattern))
            ]
    return unused


def remove(unused: Unused) -> None:
    """Delete it; a file that is missing already is no error."""
    if unused.path.is_dir():
        shutil.rmtree(unused.path, ignore_errors=True)
    else:
        unused.path.unlink(missing_ok=True)


def _of_run(folder: Path, *, weights: bool) -> list[Unused]:
    record = record_of(folder)
    if record is None:
        return []  # killed before its end: resuming may need any of its files
    front = {member.trial_id for member in record.front}
    unused = []
    for trial in record.trials:
        place = folder / "trials" / trial.trial_id
        if trial.state == "running" or not place.is_dir():
            continue
        if weights and trial.trial_id not in front:
            unused.append(_unused(place, f"{trial.state}, not on the front"))
        else:
            found = [path for pattern in CHECKPOINT_PATTERNS for path in place.glob(pattern)]
            reason = f"checkpoint of a trial that is {trial.state}"
            unused += [_unused(path, reason) for path in sorted(found)]
    return unused


def _any_live(output: Path) -> bool:
    """Whether a driver is live: of a search, or of a comparison (whose folder is no search's)."""
    return any(live_driver(file.parent) is not None for file in output.glob(f"*/{DRIVER_FILE}"))


def _finished(folder: Path) -> bool:
    record = record_of(folder)
    return record is not None and record.status == "complete"


def _unused(path: Path, reason: str) -> Unused:
    return Unused(path, disk_bytes(path), reason)
