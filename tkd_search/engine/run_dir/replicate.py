"""Replication of a run's folder to the storage: at intervals while the run goes on, and once at its end.

The study and the logs are on the driver's own disk, where every line is flushed. The copy on the storage is
at most a minute old: where the driver's machine is lost, the same command on another one goes on from there.

The driver that started last owns the copy. Each driver writes a token of its own into the copy's state file
when it starts, and compares the token before each later copy. A driver that finds another token copies
nothing more, and its search ends with an error (see ``owned_progress``).
"""

import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

from tkd_search import storage
from tkd_search.errors import UserError
from tkd_search.files import write_json

STATE_FILE = ".copied.json"
"""On the storage: the token of the driver that owns the copy, and the names of the files in it."""
OWNERS_FILE = ".owners.json"
"""In a run's folder: the tokens of the drivers whose copies are not newer than this folder."""
INTERVAL_SECONDS = 60.0
_NOT_COPIED = frozenset({"train", "tune", "trials"})
"""Ray's bookkeeping, of no use elsewhere, and the trials, which workers write to the storage themselves."""


class Replicator:
    """Context manager that copies changed files of a run's folder at intervals and once at the end.

    Args:
        folder: the run's folder on this machine.
        home: its place on the storage.
        interval: seconds between two copies.
    """

    def __init__(self, folder: Path, home: str, interval: float = INTERVAL_SECONDS) -> None:
        self._folder, self._home, self._interval = folder, home, interval
        self._copied: dict[str, tuple[int, int]] = {}
        self._token = uuid.uuid4().hex
        self._lost: UserError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="replicator")

    def __enter__(self) -> "Replicator":
        """Take ownership of the copy and start to copy.

        Raises:
            UserError: the copy is newer than the folder, or the storage cannot be written.
        """
        try:
            check_owner(self._folder, self._home)
            _add_owner(self._folder, self._token)  # before the storage: a kill may come in between
            self._write_state((_state(self._home) or {"files": []})["files"])
        except OSError as error:
            raise self._unwritable(error) from error
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Copy once more.

        Raises:
            UserError: another driver owns the copy, or the storage cannot be written. Not raised over another
                error, except Ctrl-C.
        """
        self._ended.set()
        self._thread.join()
        try:
            self.copy()
        except OSError as error:
            if kind is None:
                raise self._unwritable(error) from error
        except UserError:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                raise

    def copy(self) -> int:
        """Copy the files that changed since the last copy; return their number.

        A file that is removed meanwhile is skipped.

        Raises:
            UserError: another driver owns the copy.
            OSError: the storage cannot be written.
        """
        self._compare_owner()
        count = sum(self._copy_file(name) for name in _names(self._folder))
        if count:
            self._compare_owner()
            self._write_state(sorted(self._copied))
        return count

    def _compare_owner(self) -> None:
        state = _state(self._home)
        if self._lost is None and state is not None and state["owner"] != self._token:
            self._lost = self._taken_over()
        self.check()

    def check(self) -> None:
        """Raise once a copy has found that another driver owns the storage.

        Raises:
            UserError: another driver has started this run from the copy.
        """
        if self._lost is not None:
            raise self._lost

    def _copy_file(self, name: str) -> bool:
        """Copy one file if it has changed; whether it was copied."""
        file = self._folder / name
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self._copied.get(name) == stamp:
                return False
            storage.put_file(file, storage.below(self._home, name))
        except FileNotFoundError as error:
            if Path(error.filename or "") != file:  # an error of the storage
                raise
            return False
        self._copied[name] = stamp
        return True

    def _write_state(self, files: list[str]) -> None:
        state = {"owner": self._token, "files": files}
        storage.write_bytes(storage.below(self._home, STATE_FILE), json.dumps(state).encode())

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self.copy()
            except OSError:
                continue  # the next copy may succeed; the last one raises
            except UserError:
                return  # kept in ``_lost``, for ``check``

    def _taken_over(self) -> UserError:
        return UserError(
            self._home,
            "another driver, which has started this run from the copy there and goes on with it",
            "one driver per run",
            f"nothing is copied any more; what this driver did is in {self._folder}. Stop one of the two; "
            f"to go on here with the copy: mv '{self._folder}' '{self._folder}.old'; then the same command",
        )

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            "storage",
            f"{self._home}, which cannot be written any more: {error}",
            "a storage that can be written until the search ends",
            f"all results are in {self._folder}; the same command copies them once the storage is back",
        )


def restore(folder: Path, home: str) -> bool:
    """Fetch a run that another machine has begun; return whether there was one."""
    state = _state(home)
    if state is None or not state["files"]:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _add_owner(folder, state["owner"])
    # The configuration last: as long as it is missing, the next attempt fetches everything again.
    for name in sorted(state["files"], key=lambda name: name == "config.yaml"):
        storage.get_file(storage.below(home, name), folder / name)
    return True


def check_owner(folder: Path, home: str) -> None:
    """Refuse a folder that is older than the copy, because another machine has gone on from the copy.

    Raises:
        UserError: the copy on the storage is another machine's.
    """
    state = _state(home)
    if state is not None and state["owner"] not in _owners(folder):
        raise UserError(
            str(folder),
            f"an older state than {home}, from which another machine has gone on",
            "the copy on the storage, which the same command fetches where this folder is missing",
            f"mv '{folder}' '{folder}.old'; then the same command again",
        )


def _state(home: str) -> dict[str, Any] | None:
    written = storage.read_bytes(storage.below(home, STATE_FILE))
    return None if written is None else dict(json.loads(written))


def _owners(folder: Path) -> list[str]:
    file = folder / OWNERS_FILE
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def _add_owner(folder: Path, owner: str) -> None:
    write_json(folder / OWNERS_FILE, [*_owners(folder), owner])


def _names(folder: Path) -> list[str]:
    """Return the names of the files to copy.

    Hidden files are left out, which are locks or parts of files that are being written. What MLflow has
    acknowledged comes first and the study last: the copy of the log must not be older than the one, nor newer
    than the other.
    """
    names = []
    for place, folders, files in os.walk(folder):  # which passes over folders that are removed meanwhile
        below = Path(place).relative_to(folder)
        skipped = _NOT_COPIED if below == Path() else frozenset()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped]
        names += [
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and not name.endswith(".lock")
        ]
    return sorted(names, key=lambda name: (name == "study.journal", not name.startswith("mlflow/"), name))
