"""Writing files: replaced as a whole, and a full disk is the user's to mend."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tkd_search.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFullError(UserError):
    """The disk that holds the run's folder is full; the search cannot record what it does."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            str(path),
            f"a full disk ({reason})",
            "some free space",
            "free some (`python -m tkd_search runs clean`) and start the same command again: it resumes",
        )
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Survive a trip between processes."""
        return type(self), (self.path, self.reason)


def stated(error: OSError, path: Path) -> Exception:
    """A full disk as :class:`DiskFullError`, any other error as it is."""
    return DiskFullError(path, error.strerror or str(error)) if error.errno in _FULL else error


@contextmanager
def disk_full_stated(path: Path) -> Iterator[None]:
    """A block that writes below ``path``.

    Raises:
        DiskFullError: there was no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise stated(error, path) from error
        raise


def write_json(path: Path, plain: Any, *, durable: bool = False, indent: int | None = None) -> None:
    """Replace a JSON file atomically: readers see the old one or the new one, never a part.

    ``durable`` waits for the disk, so that a power cut leaves one of the two as well.
    """
    write_text(path, json.dumps(plain, indent=indent, ensure_ascii=False) + "\n", durable=durable)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace a text file atomically; see :func:`write_json`."""
    write_bytes(path, text.encode(), durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file atomically; see :func:`write_json`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise stated(error, path) from error


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk (also those of another process)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
