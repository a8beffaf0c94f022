"""An append-only spool on disk between a search and its tracking store.

The driver appends one JSON line per event and goes on; a writer elsewhere reads them in order and moves
the acknowledged offset forward once the store has them. What that buys:

* An append is one ``write`` to a file opened with O_APPEND, so it takes microseconds and survives the
  death of every process at once. It does **not** wait for the disk: the writer calls fsync before it
  acknowledges, about once a second, so only a power cut can lose the last second (and the search's own
  study, not this spool, is what a search resumes from).
* A line torn by a crash is cut off when the file is next opened for appending; its ``append`` never
  returned, so nobody was told that it is there.
* The offset is replaced atomically. Losing it costs a replay, never data: every event may be written to
  the store any number of times.
* It names the store it belongs to: pointing a search at another store replays all of it there.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkd_search.files import stated, write_json

EVENTS_FILE = "spool.jsonl"
ACKNOWLEDGED_FILE = "acknowledged.json"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the spool; ``time`` in milliseconds since 1970, fixed when the event happened."""

    sequence: int
    time: int
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """How far the store ``target`` has the spool: bytes ``offset``, last event ``sequence`` (-1: none)."""

    target: str
    offset: int = 0
    sequence: int = -1


class EventLog:
    """The appending side; one process at a time (the search's lock sees to that).

    Args:
        folder: made where it is missing; the spool is ``folder/spool.jsonl``.

    Raises:
        DiskFullError: when there is no room, also from :meth:`append`; the file then ends with a whole line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise stated(error, self.path) from error
        self._end = _end_of_last_line(self._file)
        os.ftruncate(self._file, self._end)
        self._next = last_sequence(self.path) + 1

    def append(self, kind: str, data: dict[str, Any]) -> int:
        """Write one event and return its sequence number (0, 1, 2 …); in the kernel when this returns."""
        event = {"sequence": self._next, "time": time.time_ns() // 1_000_000, "kind": kind, "data": data}
        line = (json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
        try:
            self._write(line)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise stated(error, self.path) from error
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
    """Up to ``limit`` whole events from byte ``offset`` on, and the offset behind them.

    A torn last line is left for later; a whole line that is no JSON (a power cut may leave zeros) is
    skipped, for nothing can be made of it.
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
    """Every whole event of a spool, in order, one line in memory at a time."""
    if path.exists():
        with path.open("rb") as file:
            yield from (event for line in file if line.endswith(b"\n") and (event := _parse(line)))


def last_sequence(path: Path) -> int:
    """Sequence number of the last whole event, -1 for an empty or missing spool."""
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


def read_acknowledged(folder: Path, target: str) -> Acknowledged:
    """How far ``target`` has this spool; from the start where that is unknown or another store's."""
    try:
        plain = json.loads((folder / ACKNOWLEDGED_FILE).read_text())
        found = Acknowledged(
            target=plain["target"], offset=int(plain["offset"]), sequence=int(plain["sequence"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Acknowledged(target=target)
    return found if found.target == target else Acknowledged(target=target)


def write_acknowledged(folder: Path, acknowledged: Acknowledged) -> None:
    """Replace the acknowledged offset atomically."""
    write_json(folder / ACKNOWLEDGED_FILE, vars(acknowledged))


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
        return Event(sequence=plain["sequence"], time=plain["time"], kind=plain["kind"], data=plain["data"])
    except (ValueError, KeyError, TypeError):
        return None
