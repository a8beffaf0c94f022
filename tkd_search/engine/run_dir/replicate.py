"""A run's folder, copied to the storage: at intervals while it runs, whole at its end.

The driver's study and logs live on its own disk, where every line is written through. The copy is at most a
minute old: where the driver's machine is lost, the same command on another one goes on from it.
"""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

from tkd_search import storage
from tkd_search.errors import UserError
from tkd_search.files import write_json

STATE_FILE = ".copied.json"
OWNERS_FILE = ".owners.json"
"""Whose copies this folder knows: its own, and the one that it was fetched from."""
INTERVAL_SECONDS = 60.0
_OWN_MACHINE = frozenset({"train", "tune", "trials", ".lock", OWNERS_FILE})
"""What is of no use elsewhere: Ray's bookkeeping, and trials, which workers put on the storage themselves."""


class Replicator:
    """Copies what has changed in a run's folder; a context manager that does so at intervals.

    Args:
        folder: the run's folder on this machine.
        home: its place on the storage.
        interval: seconds between two copies.
    """

    def __init__(self, folder: Path, home: str, interval: float = INTERVAL_SECONDS) -> None:
        self._folder, self._home, self._interval = folder, home, interval
        self._copied: dict[str, tuple[int, int]] = {}
        self._owner = uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")

    def __enter__(self) -> "Replicator":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Copy once more.

        Raises:
            UserError: the storage cannot be written, and nothing else went wrong.
        """
        self._ended.set()
        self._thread.join()
        try:
            self.copy()
        except OSError as error:
            if kind is None:
                raise UserError(
                    "storage",
                    f"{self._home}, which cannot be written any more: {error}",
                    "a storage that stays",
                    f"the results are whole in {self._folder}",
                ) from error

    def copy(self) -> int:
        """Copy what has changed since the last time; number of files."""
        count = 0
        if self._owner not in _owners(self._folder):  # before any copy says so
            _know(self._folder, self._owner)
        for file in _files(self._folder):
            name = file.relative_to(self._folder).as_posix()
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self._copied.get(name) != stamp:
                storage.put_file(file, storage.below(self._home, name))
                self._copied[name] = stamp
                count += 1
        if count:
            state = {"owner": self._owner, "files": sorted(self._copied)}
            storage.write_bytes(storage.below(self._home, STATE_FILE), json.dumps(state).encode())
        return count

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self.copy()
            except OSError:
                continue  # the next one may find the storage again; the last one says what is wrong


def restore(folder: Path, home: str) -> bool:
    """Fetch a run that another machine has begun; whether there was one."""
    state = _state(home)
    if state is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _know(folder, state["owner"])
    # The configuration last: as long as it is missing, the next attempt fetches everything again.
    for name in sorted(state["files"], key=lambda name: name == "config.yaml"):
        storage.get_file(storage.below(home, name), folder / name)
    return True


def check_owner(folder: Path, home: str) -> None:
    """Refuse to go on from a folder that is older than the copy that another machine has made since.

    Raises:
        UserError: the copy on the storage is another machine's.
    """
    state = _state(home)
    if state is not None and state["owner"] not in _owners(folder):
        raise UserError(
            str(folder),
            f"an older state than {home}, where another machine has gone on since",
            "the copy on the storage, which the same command fetches where this folder is missing",
            f"mv '{folder}' '{folder}.old'; then the same command again",
        )


def _state(home: str) -> dict[str, Any] | None:
    written = storage.read_bytes(storage.below(home, STATE_FILE))
    return None if written is None else dict(json.loads(written))


def _owners(folder: Path) -> list[str]:
    file = folder / OWNERS_FILE
    return list(json.loads(file.read_text())) if file.exists() else []


def _know(folder: Path, owner: str) -> None:
    write_json(folder / OWNERS_FILE, [*_owners(folder), owner])


def _files(folder: Path) -> list[Path]:
    """What is copied; the study at last, for it must never know less than the log of epochs."""
    found = [
        file
        for entry in sorted(folder.iterdir())
        if entry.name not in _OWN_MACHINE
        for file in ([entry] if entry.is_file() else sorted(entry.rglob("*")))
        if file.is_file() and not file.name.endswith((".tmp", ".lock"))
    ]
    return sorted(found, key=lambda file: file.name == "study.journal")
