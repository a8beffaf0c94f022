"""Folders that are either whole or not there."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tkd_search.files import sync


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the block ends without an error.

    A folder of that name that was there before is replaced; of several writers at once the last one stays.
    Files are flushed to the disk first, so that a power failure leaves no empty ones under the final name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        for file in partial.iterdir():
            sync(file)
        _take_place(partial, target)
        sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, target: Path) -> None:
    """Rename; whatever is in the way, and stays in the way of a second try, is moved aside first."""
    while True:
        try:
            partial.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
        with suppress(FileNotFoundError):  # another writer has just moved it
            target.rename(old / "old")
        shutil.rmtree(old, ignore_errors=True)
