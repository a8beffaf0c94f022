"""Durable storage of a study: a journal file that survives a kill at any moment, or any Optuna URL."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import filelock
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file


class JournalLock(BaseJournalFileLock):
    """Lock of a journal file that the kernel drops when its holder dies.

    Optuna's own locks are files that a killed process leaves behind; the next process then waits for
    30 seconds before it removes them.
    """

    def __init__(self, journal: str) -> None:
        self._lock = filelock.FileLock(journal + ".lock")

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire(poll_interval=0.005)
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


class SlimJournal(JournalFileBackend):
    """Optuna's journal file, holding less in memory: a search of 10,000 trials reads 80,000 lines.

    One reader goes through the file once, so of all lines' offsets only the next one's is kept; and a name of
    a leaf is one string, however many trials have it.
    """

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from the given number on."""
        offset = self._log_number_offset.get(log_number_from, 0)
        self._log_number_offset = {0: 0} | ({log_number_from: offset} if offset else {})
        for record in super().read_logs(log_number_from):
            yield _names_shared(record)


def _names_shared(value: Any) -> Any:
    """The same plain value, with every key of a mapping a string that exists once."""
    if isinstance(value, dict):
        return {sys.intern(name): _names_shared(inner) for name, inner in value.items()}
    return [_names_shared(inner) for inner in value] if isinstance(value, list) else value


def open_storage(where: str | Path | None, *, mend: bool = True) -> BaseStorage:
    """The storage of a study.

    Args:
        where: path of a journal file (its folder must exist), an Optuna storage URL such as
            ``postgresql://…`` or ``sqlite:///…``, or None for memory alone.
        mend: cut a half-written last line off a journal, which a writer must and a mere reader need not.
    """
    if where is None:
        return InMemoryStorage()
    if "://" in str(where):
        return RDBStorage(str(where))
    if mend:
        mend_journal(Path(where))
    return JournalStorage(SlimJournal(str(where), lock_obj=JournalLock(str(where))))


def mend_journal(path: Path) -> bool:
    """Cut a half-written last line off a journal, as a kill in mid-write leaves it.

    Optuna tolerates such a line only while nothing follows it: the next record would make the whole
    journal unreadable. Nothing acknowledged is lost, since a record counts once its line is complete. What
    another process is just writing is no half line: the lock of writers is waited for.

    Returns:
        Whether anything was cut.
    """
    if not path.exists() or path.stat().st_size == 0:
        return False
    with get_lock_file(JournalLock(str(path))), open(path, "r+b") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return False
        journal.truncate(whole)
        journal.flush()
        os.fsync(journal.fileno())
    return True
