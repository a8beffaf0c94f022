"""Folders that appear complete or not at all."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tkd_search.files import sync


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``target`` when the block ends without an error.

    An existing ``target`` is replaced; of several concurrent writers the last one wins. Files are flushed to
    the disk before the rename, so that a power failure leaves no empty files in ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        finish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def resumable_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that is renamed to ``target`` when the block ends without an error.

    After an error or a kill the next call yields the same folder with the files written so far. The caller
    must see to it that there is one writer at a time.
    """
    partial = unfinished_folder(target)
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    finish(partial, target)


def unfinished_folder(target: Path) -> Path:
    """Return the folder that :func:`resumable_folder` yields."""
    return target.with_name(f".{target.name}.part")


def finish(partial: Path, target: Path) -> None:
    """Flush the files of a folder to the disk and rename it; an existing ``target`` is replaced."""
    for file in partial.iterdir():
        sync(file)
    _replace(partial, target)
    sync(target.parent)


def _replace(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``; move an existing folder aside first, as often as one appears."""
    while True:
        try:
            partial.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        remove_folder(target)


def remove_folder(target: Path) -> None:
    """Remove a folder in one step, as readers see it; one that another process removes is no error."""
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    with suppress(FileNotFoundError):
        target.rename(old / "old")
    shutil.rmtree(old, ignore_errors=True)
