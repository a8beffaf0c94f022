"""Files on this machine's disk or at a URI (``s3://``, ``gs://``, ``file://``).

A location is a string, a local path or a URI, and can be sent in a job as it is. Here are locations and
single files; folders are in ``remote_folders.py``.
"""

import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tkd_search.errors import UserError

SCHEMES = ("s3", "gs", "file")
_FILE = "file://"
_ALLOWED = "s3://bucket/folder, gs://bucket/folder, or the absolute path of a folder that all nodes share"
_CHUNK = 8 * 1024 * 1024
_ATTEMPTS = 5
T = TypeVar("T")


def is_remote(where: str) -> bool:
    """Return whether a location is a URI."""
    return "://" in where


def storage_uri(written: str) -> str:
    """Return the ``storage`` of a configuration as a URI.

    Raises:
        UserError: an unknown scheme, no bucket, credentials or a ``#`` in the URI, or a relative path.
    """
    if not is_remote(written):
        path = os.path.expanduser(written)
        if not os.path.isabs(path):
            raise UserError("storage", repr(written), _ALLOWED)
        return f"file://{os.path.normpath(path)}"
    parts = urlsplit(written)
    if "@" in parts.netloc:
        raise UserError(
            "storage",
            "a URI with credentials in it",
            _ALLOWED,
            "set them in the environment (AWS_ACCESS_KEY_ID, …) or use the node's role",
        )
    remote = parts.scheme in SCHEMES and parts.scheme != "file" and parts.netloc and "#" not in written
    if not remote and not written.startswith(f"{_FILE}/"):
        raise UserError("storage", repr(written), _ALLOWED)
    return written


def below(where: str, *names: str) -> str:
    """Return a location below another one; a URI keeps its ``?endpoint_override=…``."""
    base, mark, query = split_query(where)
    return "/".join([base.rstrip("/"), *names]) + mark + query


def local_path(where: str) -> Path | None:
    """Return the path of a location on this machine's disk, None for any other."""
    if not is_remote(where):
        return Path(where)
    return Path(where.removeprefix(_FILE)) if where.startswith(_FILE) else None


def split_query(where: str) -> tuple[str, str, str]:
    """Split a URI into location, ``?`` and query. A path on a disk has no query, but may contain ``?``."""
    return where.partition("?") if is_remote(where) and not where.startswith(_FILE) else (where, "", "")


def write_error(where: str) -> str:
    """Write, read and delete a small file below a location; return '' on success, else the reason."""
    try:
        system, base = open_system(where)
        name = f"{base}/.tkd-probe-{socket.gethostname()}-{uuid.uuid4().hex}"
        if _on_disk(system):
            os.makedirs(base, exist_ok=True)
        with system.open_output_stream(name) as file:
            file.write(b"tkd")
        with system.open_input_stream(name) as file:
            written = file.read()
        system.delete_file(name)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return "" if written == b"tkd" else "a file that was written reads back with other content"


def check_storage(where: str) -> None:
    """Check that a storage can be written from this machine.

    Raises:
        UserError: it cannot; the message has the reason.
    """
    error = write_error(where)
    if error:
        raise UserError(
            "storage",
            f"{where}, which cannot be written: {error}",
            "a bucket or folder that exists and that this machine may write to",
            f"python -m tkd_search doctor --storage '{where}'",
        )


# single files ---------------------------------------------------------------------------------------------


def read_bytes(where: str) -> bytes | None:
    """Return a file's content, None where there is no file."""

    def read() -> bytes | None:
        system, path = open_system(where)
        try:
            with system.open_input_stream(path) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    return with_retries(read)


def write_bytes(where: str, content: bytes) -> None:
    """Write a file atomically: readers find the old or the new content, also after a kill."""

    def write() -> None:
        system, path = open_system(where)
        with _atomic_target(system, path) as target, system.open_output_stream(target) as file:
            file.write(content)

    with_retries(write)


def delete(where: str) -> None:
    """Delete a file if it exists."""
    system, path = open_system(where)
    try:
        system.delete_file(path)
    except FileNotFoundError:
        return


def move(where: str, to: str) -> None:
    """Rename a file, if it exists, within its storage; a file that is there already is replaced."""
    if file_exists(where):
        system, path = open_system(where)
        with suppress(FileNotFoundError):  # another search, which trains the same, has moved it
            with_retries(lambda: system.move(path, open_system(to)[1]))


def file_exists(where: str) -> bool:
    """Return whether there is a file at a location."""
    return file_size(where) is not None


def file_size(where: str) -> int | None:
    """Return a file's length in bytes, None where there is no file."""
    from pyarrow import fs

    def size() -> int | None:
        system, path = open_system(where)
        found = system.get_file_info(path)
        return int(found.size) if found.type == fs.FileType.File else None

    return with_retries(size)


def put_file(local: Path, where: str) -> None:
    """Copy a file of this machine to a location."""

    def put() -> None:
        system, path = open_system(where)
        with (
            open(local, "rb") as source,
            _atomic_target(system, path) as part,
            system.open_output_stream(part) as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK)

    with_retries(put)


def get_file(where: str, local: Path) -> None:
    """Copy a file from a location to this machine, atomically.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def get() -> None:
        system, path = open_system(where)
        local.parent.mkdir(parents=True, exist_ok=True)
        part = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
        try:
            with system.open_input_stream(path) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            part.replace(local)
        finally:
            part.unlink(missing_ok=True)

    with_retries(get)


def last_name(where: str) -> str:
    """Return the last component of a location."""
    return split_query(where)[0].rstrip("/").rpartition("/")[2]


@lru_cache(maxsize=64)
def _root(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(uri)
    return system, path.rstrip("/")


def open_system(where: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a location, one per bucket, and the path in it."""
    path = local_path(where)
    if path is not None:  # not from_uri: a path may contain characters that have a meaning in a URI
        return _root(f"{_FILE}/")[0], str(path.absolute())
    base, mark, query = split_query(where)
    parts = urlsplit(base)
    system, bucket = _root(f"{parts.scheme}://{parts.netloc}{mark}{query}")
    return system, f"{bucket}{parts.path}".rstrip("/")


def _on_disk(system: Any) -> bool:
    return str(system.type_name) == "local"


@contextmanager
def _atomic_target(system: Any, path: str) -> Iterator[str]:
    """Yield the path to write so that ``path`` changes atomically: on a disk a file that is renamed to it."""
    if not _on_disk(system):
        yield path
        return
    folder, _, name = path.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    part = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
    try:
        yield part
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def with_retries(attempt: Callable[[], T]) -> T:
    """Call ``attempt`` up to 5 times within 15 seconds, so that a short outage of a storage fails no trial.

    Raises:
        FileNotFoundError: at once; waiting does not create a file.
        OSError: of the last attempt.
    """
    for number in range(_ATTEMPTS):
        try:
            return attempt()
        except FileNotFoundError:
            raise
        except OSError:
            if number == _ATTEMPTS - 1:
                raise
            time.sleep(2**number)
    raise AssertionError
