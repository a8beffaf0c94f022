"""One driver per run: a lock on the run's folder, and a note of the process that holds it.

The kernel releases the lock when its process dies. Who holds it is read from the note, whose process is
compared with the running ones, so that looking at a run of this machine does not take its lock.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from tkd_search.errors import UserError
from tkd_search.files import write_json

LOCK_FILE = ".lock"
DRIVER_FILE = ".driver.json"
"""In a run's folder: the process that holds the lock; a killed process leaves it behind."""
_LOCK_SECONDS = 1.0
"""A start waits so long for the lock: longer than :func:`_is_locked` holds it."""
_CLOCK_SECONDS = 2.0
"""Start times of one process may differ by this much, because they are derived from the adjustable clock."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The process that runs a search.

    Attributes:
        pid: its process id.
        created: when the process started, in seconds since the epoch; a later process with the same id has
            another start time.
        host: name of its machine.
    """

    pid: int
    created: float
    host: str

    @classmethod
    def this_process(cls) -> "Driver":
        """Describe the calling process."""
        return cls(pid=os.getpid(), created=psutil.Process().create_time(), host=socket.gethostname())

    @property
    def is_local(self) -> bool:
        """Whether the process is of this machine."""
        return self.host == socket.gethostname()

    def process(self) -> psutil.Process | None:
        """Return the process of this machine, None where it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _CLOCK_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run's lock for the length of a ``with`` block.

    Raises:
        UserError: another live process holds it (the message names it), or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        driver = live_driver(folder)
        by = "unknown process" if driver is None else f"process {driver.pid} on {driver.host}"
        raise UserError(
            f"--name {folder.name}",
            f"another search that is running ({by})",
            "a name that no live driver holds",
            "wait for it, stop it (python -m tkd_search runs stop NAME), or choose another --name",
        ) from error
    except OSError as error:
        raise UserError(
            "output", f"{folder} ({error.strerror})", "a folder that can be written", "--output FOLDER"
        ) from error
    try:
        write_json(folder / DRIVER_FILE, asdict(Driver.this_process()))
        yield
    finally:
        (folder / DRIVER_FILE).unlink(missing_ok=True)
        lock.release()


def live_driver(folder: Path) -> Driver | None:
    """Return the process that runs the search in ``folder``, None where none does."""
    try:
        driver = Driver(**json.loads((folder / DRIVER_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    live = (driver.is_local and driver.process() is not None) or _is_locked(folder)
    return driver if live else None


def _is_locked(folder: Path) -> bool:
    """Whether a process that is not found here holds the lock.

    It is of another machine or container, or the clock was set since it started.
    """
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except OSError:  # held (Timeout), or not to be opened: a run that may be live is left alone
        return True
