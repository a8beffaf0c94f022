"""Folders that are either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the block ends without an error.

    A folder of that name that was there before is replaced. Two writers at once: the last one stays. Files
    are flushed to the disk first, so that a power failure leaves no empty ones under the final name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        for file in partial.iterdir():
            _flush(file)
        _take_place(partial, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, target: Path) -> None:
    while True:
        try:
            partial.rename(target)
            return
        except OSError:
            if not target.exists():
                raise
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            try:
                target.rename(old / "old")
            except FileNotFoundError:
                pass  # another writer has just moved it
            finally:
                shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
