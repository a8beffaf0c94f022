"""Find runs on disk, and read what they have written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tkd_search.config.experiment_file import CONFIG_FILE
from tkd_search.errors import UserError
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import FrontMember, SearchRecord, by_cost
from tkd_search.results.summary import RECORD_FILE, SUMMARY_FILE, read_record, read_summary, write_summary
from tkd_search.tracking.uri import StoreIds

CACHE_FOLDER = ".cache"


def run_folder(path: str | Path, output: str | Path = "runs") -> Path:
    """Return a run's folder from its path or its name.

    Raises:
        UserError: neither is a run.
    """
    for place in (Path(path).expanduser(), Path(output) / path):
        if _is_run(place):
            return place
    known = ", ".join(one.name for one in all_runs(Path(output))) or "none yet"
    raise UserError(str(path), "no search", f"the folder or name of one; in {output}: {known}")


def all_runs(output: Path) -> list[Path]:
    """Return the folders of all searches under ``output``, by name."""
    return sorted(filter(_is_run, output.iterdir())) if output.is_dir() else []


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists() or (folder / SUMMARY_FILE).exists()


def record_of(folder: Path) -> SearchRecord | None:
    """Return the record on disk, None for a search that was killed before its end."""
    return read_record(folder) if (folder / RECORD_FILE).exists() else None


def complete_summary(folder: Path, ids: StoreIds) -> SearchRecord | None:
    """Add the store's identifiers, which are unknown while it is down, to the record on disk; return it."""
    record = record_of(folder)
    if record is not None and ids.parent_run_id and record.parent_run_id != ids.parent_run_id:
        record = replace(record, **vars(ids))
        write_summary(record, folder)
    return record


def front_of(folder: Path) -> tuple[FrontMember, ...]:
    """Return the front, smallest first, from the record or else from the summary (without latencies).

    Raises:
        UserError: neither can be read, or the front is empty.
    """
    record = record_of(folder)
    if record is None and not (folder / SUMMARY_FILE).exists():
        hint = "wait, or start its command again: it goes on"
        raise UserError(str(folder), "a search that has not ended", "one that has ended", hint)
    front = (
        tuple(from_plain(FrontMember, _with_nan(one)) for one in read_summary(folder)["front"])
        if record is None
        else record.front
    )
    if not front:
        hint = "raise search.trials, or loosen search.max_latency, and start its command again"
        raise UserError(str(folder), "a search with an empty front", "a search with results", hint)
    return by_cost(front)


def member_of(folder: Path, trial: str) -> FrontMember:
    """Return a front member by trial identifier: ``t0012``, or its number alone.

    Raises:
        UserError: it is not on the front.
    """
    front = front_of(folder)
    for member in front:
        if trial.removeprefix("t").lstrip("0") == member.trial_id.removeprefix("t").lstrip("0"):
            return member
    raise UserError("TRIAL", trial, f"a trial on the front: {', '.join(one.trial_id for one in front)}")


def disk_bytes(place: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 for a missing one."""
    if place.is_file():
        return place.stat().st_size
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:  # a live search removes files at the same time
            continue
    return total


def _with_nan(plain: dict[str, Any]) -> dict[str, Any]:
    """Replace null figures of a summary by NaN."""
    figures = ("val_accuracy", "test_accuracy", "retention", "ratio")
    return {key: float("nan") if value is None and key in figures else value for key, value in plain.items()}
