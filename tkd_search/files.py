"""Atomic replacement of files; a full disk raises a UserError."""

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
    """The disk with the run's folder is full, so the search cannot write its records."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            str(path),
            f"a full disk ({reason})",
            "some free space",
            "free some (`python -m tkd_search runs clean`) and start the same command again: it resumes",
        )
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Pickle the two arguments; the default would pickle the message as the only one."""
        return type(self), (self.path, self.reason)


def disk_full_or(error: OSError, path: Path) -> Exception:
    """Return a :class:`DiskFullError` for the error of a full disk, any other error unchanged."""
    return DiskFullError(path, error.strerror or str(error)) if error.errno in _FULL else error


@contextmanager
def disk_full_errors(path: Path) -> Iterator[None]:
    """Convert the error of a full disk in a ``with`` block that writes below ``path``.

    Raises:
        DiskFullError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full_or(error, path) from error
        raise


def read_json(path: Path) -> Any:
    """Return the plain value of a JSON file that :func:`write_json` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            str(path), f"a damaged file ({error})", "JSON", "delete it: the same command writes it again"
        ) from error


def write_json(path: Path, plain: Any, *, durable: bool = False, indent: int | None = None) -> None:
    """Replace a JSON file atomically: a reader finds the old or the new content.

    ``durable`` waits for the disk, so that this also holds after a power failure.
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
        raise disk_full_or(error, path) from error


def reserve(descriptor: int, size: int) -> None:
    """Reserve the disk space of an open file of ``size`` bytes, where the file system can.

    Raises:
        OSError: the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in _FULL:
            raise


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk, whichever process wrote them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_writable(path: Path) -> str:
    """Return why a file or folder cannot be written or created, without trying; '' where it can."""
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    if place != path and not place.is_dir():
        return f"{place}, which is not a folder"
    kind = "folder" if place.is_dir() else "file"
    return "" if os.access(place, os.W_OK) else f"a {kind} that cannot be written: {place}"
