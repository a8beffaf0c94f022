"""Runs on disk, as the commands see them."""

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkd_search.errors import UserError
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import BigModelRecord, FrontMember, SearchRecord
from tkd_search.results.summary import RECORD_FILE, SUMMARY_FILE, read_record, read_summary

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
CACHE_FOLDER = ".cache"


@dataclass(frozen=True)
class Driver:
    """The live process that works on a run: its process number and host ('' and 0 where unknown)."""

    pid: int = 0
    host: str = ""


def run_folder(path: str | Path, output: str | Path = "runs") -> Path:
    """A run's folder from its path or its name.

    Raises:
        UserError: neither is a run.
    """
    for place in (Path(path).expanduser(), Path(output) / path):
        if (place / CONFIG_FILE).exists() or (place / SUMMARY_FILE).exists():
            return place
    known = ", ".join(one.name for one in all_runs(Path(output))) or "none yet"
    raise UserError(str(path), "no search", f"the folder or name of one; in {output}: {known}")


def all_runs(output: Path) -> list[Path]:
    """The folders of all searches under ``output``, by name."""
    if not output.is_dir():
        return []
    return sorted(
        place
        for place in output.iterdir()
        if place.is_dir() and ((place / CONFIG_FILE).exists() or (place / SUMMARY_FILE).exists())
    )


def front_of(folder: Path) -> tuple[FrontMember, ...]:
    """The front of a search, smallest first, from its record or else from its summary (no latencies).

    Raises:
        UserError: neither can be read, or the front is empty.
    """
    if (folder / RECORD_FILE).exists():
        front = read_record(folder).front
    else:
        front = tuple(from_plain(FrontMember, _numbers(one)) for one in read_summary(folder)["front"])
    if not front:
        hint = "go on with the search: start its command again"
        raise UserError(str(folder), "a search with an empty front", "a search with results", hint)
    return tuple(sorted(front, key=lambda one: (one.bytes, one.trial_id)))


def big_model_of(folder: Path) -> BigModelRecord:
    """The big model's figures from the summary."""
    return from_plain(BigModelRecord, _numbers(read_summary(folder)["big_model"]))


def member_of(folder: Path, trial: str) -> FrontMember:
    """A front member by trial identifier: ``t0012``, or only its number.

    Raises:
        UserError: it is not on the front.
    """
    front = front_of(folder)
    for member in front:
        if trial.removeprefix("t").lstrip("0") == member.trial_id.removeprefix("t").lstrip("0"):
            return member
    raise UserError("TRIAL", trial, f"a trial on the front: {', '.join(one.trial_id for one in front)}")


def record_of(folder: Path) -> SearchRecord | None:
    """The record on disk, None where there is none (killed before its end)."""
    return read_record(folder) if (folder / RECORD_FILE).exists() else None


def live_driver(folder: Path) -> Driver | None:
    """The process that holds the run's lock, None where nobody does."""
    path = folder / LOCK_FILE
    try:
        # For reading alone: the folder may be another user's, or on a disk that is mounted read-only.
        opened = path.open("r", encoding="utf-8")
    except OSError:
        return None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None  # closing the file drops the lock again
        except OSError:
            try:
                plain: dict[str, Any] = json.loads(file.read())
                return Driver(int(plain["pid"]), str(plain["host"]))
            except (ValueError, KeyError, TypeError):
                return Driver()


def disk_bytes(place: Path) -> int:
    """Bytes of all files below a folder (or of a file); 0 for what is not there."""
    if place.is_file():
        return place.stat().st_size
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:  # a live search removes files meanwhile
            continue
    return total


def _numbers(plain: dict[str, Any]) -> dict[str, Any]:
    """Null figures of a summary as NaN."""
    figures = ("val_accuracy", "test_accuracy", "retention", "ratio")
    return {key: float("nan") if value is None and key in figures else value for key, value in plain.items()}
