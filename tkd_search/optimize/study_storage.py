"""Storage of a study: a journal file that stays readable after a kill at any moment, or any Optuna URL."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import filelock
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file

from tkd_search.errors import UserError

_KEYS = {"op_code", "worker_id"}
"""Keys of every record of Optuna's journal."""


class JournalLock(BaseJournalFileLock):
    """Lock of a journal file, which the kernel releases when its holder dies.

    Optuna's own locks are files. A killed process leaves them behind, and the next process then waits 30
    seconds before it removes them.
    """

    def __init__(self, journal: str) -> None:
        self._lock = filelock.FileLock(journal + ".lock")

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        self._lock.acquire(poll_interval=0.005)
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


class SlimJournal(JournalFileBackend):
    """Optuna's journal file with less memory: a search of 10,000 trials reads 80,000 lines.

    The file has one reader, which goes through it once, so only the offset of the next line is kept. All
    trials share the strings of the leaves' names.

    Args:
        file_path: the journal.
        lock_obj: its lock; default: Optuna's.
        whole: whether a damaged line is an error; without it, reading ends there.
    """

    def __init__(
        self, file_path: str, lock_obj: BaseJournalFileLock | None = None, *, whole: bool = True
    ) -> None:
        super().__init__(file_path, lock_obj)
        self._whole = whole

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the records from the given number on.

        Raises:
            UserError: a line is damaged.
        """
        offset = self._log_number_offset.get(log_number_from, 0)
        self._log_number_offset = {0: 0} | ({log_number_from: offset} if offset else {})
        number = log_number_from
        try:
            for record in super().read_logs(log_number_from):
                number += 1
                if not isinstance(record, dict) or not record.keys() >= _KEYS:
                    raise ValueError("no record of a study")
                yield _with_shared_names(record)
        except ValueError as error:
            if self._whole:
                raise _damaged(self._file_path, number) from error


def _damaged(path: str, line: int) -> UserError:
    name = Path(path).absolute().parent.name
    return UserError(
        path,
        f"a damaged record near line {line}",
        "the journal of a study as the search wrote it",
        "restore the file, or search under another name and learn from the trials before that line: "
        f"--name {name}-2 --set search.warm_start=[{name}]",
    )


def _with_shared_names(value: Any) -> Any:
    """Return the same plain value with interned keys of mappings."""
    if isinstance(value, dict):
        return {sys.intern(name): _with_shared_names(inner) for name, inner in value.items()}
    return [_with_shared_names(inner) for inner in value] if isinstance(value, list) else value


def open_storage(where: str | Path | None, *, repair: bool = True) -> BaseStorage:
    """Return the storage of a study.

    Args:
        where: path of a journal file (its folder must exist), an Optuna storage URL such as
            ``postgresql://…`` or ``sqlite:///…``, or None for memory alone.
        repair: remove a half-written last line of a journal, and refuse a damaged one; necessary before
            writing. Without it, the records before the damaged line are read.

    Raises:
        UserError: a line of the journal is damaged.
    """
    if where is None:
        return InMemoryStorage()
    if "://" in str(where):
        return RDBStorage(str(where))
    if repair:
        repair_journal(Path(where))
    return JournalStorage(SlimJournal(str(where), JournalLock(str(where)), whole=repair))


def repair_journal(path: Path) -> bool:
    """Remove a half-written last line of a journal, which a kill during a write leaves.

    Optuna reads such a line only while nothing follows it: the next record would make the whole journal
    unreadable. No acknowledged record is lost, since a record counts once its line is complete. The writers'
    lock is held meanwhile, so that the line that another process is writing is not removed.

    Returns:
        Whether a line was removed.
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
