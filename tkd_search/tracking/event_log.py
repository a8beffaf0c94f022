"""The append-only event log of a run: ``<run>/events/events.jsonl``, one JSON object a line.

The driver appends; the state of the search, the report and MLflow are derived from the log.

* An append is one ``write`` to a file opened with O_APPEND: it takes microseconds and survives the death of
  every process. It does not wait for the disk, so a power cut may lose the last second. The study's journal
  waits for the disk, and what the log lost is restored from it.
* A line that a crash tore is cut off when the file is next opened for appending; its ``append`` never
  returned.
* A reader with an offset of its own (MLflow's writer) may read any event any number of times.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkd_search.files import disk_full_or
from tkd_search.masking import masked_values

EVENTS_FOLDER = "events"
EVENTS_FILE = "events.jsonl"


def events_file(run: Path) -> Path:
    """Return the path of the event log in a run's folder."""
    return run / EVENTS_FOLDER / EVENTS_FILE


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the log.

    Attributes:
        sequence: 0, 1, 2 … in order of appending.
        time: milliseconds since 1970 at which the event was appended.
        kind: ``search_started``, ``trial_started``, ``epoch`` … (see :mod:`~tkd_search.tracking.tracker`).
        data: plain JSON values.
        clock: milliseconds on the machine's monotonic clock, 0 in a log of an earlier version.
    """

    sequence: int
    time: int
    kind: str
    data: dict[str, Any]
    clock: int = 0


class EventLog:
    """Appends events; the run's lock admits one process at a time.

    Args:
        run: the run's folder; the log's own folder is created in it.

    Raises:
        DiskFullError: no room, also from :meth:`append`; the file then ends with a whole line.
    """

    def __init__(self, run: Path) -> None:
        self.path = events_file(run)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise disk_full_or(error, self.path) from error
        self._end = _end_of_last_line(self._file)
        os.ftruncate(self._file, self._end)
        self._next = last_sequence(self.path) + 1

    def append(self, kind: str, data: dict[str, Any]) -> int:
        """Append one event and return its sequence number; the kernel has it when this returns.

        Secrets in its texts are masked, because the tracking store, the report and copies get what is here.
        """
        data = masked_values(data)
        now, clock = time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000
        event = {"sequence": self._next, "time": now, "clock": clock, "kind": kind, "data": data}
        line = (json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
        try:
            self._write(line)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise disk_full_or(error, self.path) from error
        self._end += len(line)
        self._next += 1
        return self._next - 1

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):  # a nearly full disk takes part of a line, then refuses the rest
            written += os.write(self._file, line[written:])

    def __len__(self) -> int:
        return self._next

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read_events(path: Path, offset: int = 0, limit: int | None = None) -> tuple[list[Event], int]:
    """Return up to ``limit`` whole events from byte ``offset`` on, and the offset behind them.

    A torn last line is left for later. A whole line that is not JSON is skipped: a power cut may leave
    zeros.
    """
    events: list[Event] = []
    if not path.exists():
        return events, offset
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n") or (limit is not None and len(events) >= limit):
                break
            offset += len(line)
            if event := _parse(line):
                events.append(event)
    return events, offset


def all_events(path: Path) -> Iterator[Event]:
    """Yield every whole event of a log in order, with one line in memory at a time."""
    if path.exists():
        with path.open("rb") as file:
            yield from (event for line in file if line.endswith(b"\n") and (event := _parse(line)))


def last_sequence(path: Path) -> int:
    """Return the sequence number of the last whole event, -1 for an empty or missing log."""
    if not path.exists():
        return -1
    with path.open("rb") as file:
        size, block = file.seek(0, os.SEEK_END), 4096
        while True:
            file.seek(max(0, size - block))
            lines = file.read().splitlines(keepends=True)
            whole = lines if block >= size else lines[1:]
            for line in reversed(whole):
                if line.endswith(b"\n") and (event := _parse(line)):
                    return event.sequence
            if block >= size:
                return -1
            block *= 4


def _end_of_last_line(descriptor: int) -> int:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    block = 1 << 16
    while size:
        start = max(0, size - block)
        newline = os.pread(descriptor, size - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0


def _parse(line: bytes) -> Event | None:
    try:
        plain = json.loads(line)
        known = {key: plain[key] for key in ("sequence", "time", "kind", "data")}
        return Event(**known, clock=plain.get("clock", 0))
    except (ValueError, KeyError, TypeError):
        return None
