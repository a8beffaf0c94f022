"""Files and folders that every node reaches: on this machine's disk, or on ``s3://``, ``gs://``, ``file://``.

A place is a string, a local path or a URI, so that it travels in a job as it is. Here are places and single
files; whole folders are in ``storage_folders.py``.
"""

import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
_Answer = TypeVar("_Answer")


def is_remote(where: str) -> bool:
    """Whether a place is a URI."""
    return "://" in where


def storage_uri(written: str) -> str:
    """The ``storage`` of a configuration as a URI.

    Raises:
        UserError: another scheme, no bucket, credentials in it, or a relative path.
    """
    if not is_remote(written):
        path = os.path.expanduser(written)
        if not os.path.isabs(path):
            raise UserError("storage", repr(written), _ALLOWED)
        return f"file://{os.path.normpath(path)}"
    parts = urlsplit(written)
    if parts.scheme not in SCHEMES or (parts.scheme != "file" and not parts.netloc):
        raise UserError("storage", repr(written), _ALLOWED)
    if "@" in parts.netloc:
        raise UserError(
            "storage",
            "a URI with credentials in it",
            _ALLOWED,
            "leave them to the environment (AWS_ACCESS_KEY_ID, …) or to the node's role",
        )
    return written


def below(where: str, *names: str) -> str:
    """A place below another; a URI keeps its ``?endpoint_override=…``."""
    base, mark, query = split_place(where)
    return "/".join([base.rstrip("/"), *names]) + mark + query


def local_path(where: str) -> Path | None:
    """The path of a place on this machine's disk, None for one elsewhere."""
    if not is_remote(where):
        return Path(where)
    return Path(where.removeprefix(_FILE)) if where.startswith(_FILE) else None


def split_place(where: str) -> tuple[str, str, str]:
    """A place, ``?`` and what follows: a path on a disk may hold that sign itself."""
    return where.partition("?") if is_remote(where) and not where.startswith(_FILE) else (where, "", "")


def write_error(where: str) -> str:
    """Write, read and delete a small file below a place; '' where that works, else why not."""
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
    return "" if written == b"tkd" else "what was written could not be read again"


def check_storage(where: str) -> None:
    """Refuse a storage that cannot be written from here.

    Raises:
        UserError: with the reason.
    """
    error = write_error(where)
    if error:
        raise UserError(
            "storage",
            f"{where}, which cannot be written: {error}",
            "a bucket or folder that exists, that this machine reaches and may write to",
            f"python -m tkd_search doctor --storage '{where}'",
        )


# single files ---------------------------------------------------------------------------------------------


def read_bytes(where: str) -> bytes | None:
    """A file's content, None where there is none."""

    def read() -> bytes | None:
        system, path = open_system(where)
        try:
            with system.open_input_stream(path) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    return patiently(read)


def write_bytes(where: str, content: bytes) -> None:
    """Write a file in one step: a reader, or a kill, finds the old content or the new."""

    def write() -> None:
        system, path = open_system(where)
        with _in_one_step(system, path) as target, system.open_output_stream(target) as file:
            file.write(content)

    patiently(write)


def delete(where: str) -> None:
    """Delete a file; one that is not there is fine."""
    system, path = open_system(where)
    try:
        system.delete_file(path)
    except FileNotFoundError:
        return


def put_file(local: Path, where: str) -> None:
    """Copy a file of this machine to a place."""

    def put() -> None:
        system, path = open_system(where)
        with (
            open(local, "rb") as source,
            _in_one_step(system, path) as part,
            system.open_output_stream(part) as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK)

    patiently(put)


def get_file(where: str, local: Path) -> None:
    """Copy a file from a place to this machine, whole or not at all.

    Raises:
        FileNotFoundError: there is none.
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

    patiently(get)


def last_name(where: str) -> str:
    """The last name in a place."""
    return split_place(where)[0].rstrip("/").rpartition("/")[2]


@lru_cache(maxsize=64)
def _root(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(uri)
    return system, path.rstrip("/")


def open_system(where: str) -> tuple[Any, str]:
    """File system and path; one connection for all places of a bucket."""
    path = local_path(where)
    if path is not None:  # by hand: a path may hold signs that have a meaning in a URI
        return _root(f"{_FILE}/")[0], str(path.absolute())
    base, mark, query = split_place(where)
    parts = urlsplit(base)
    system, bucket = _root(f"{parts.scheme}://{parts.netloc}{mark}{query}")
    return system, f"{bucket}{parts.path}".rstrip("/")


def _on_disk(system: Any) -> bool:
    return str(system.type_name) == "local"


@contextmanager
def _in_one_step(system: Any, path: str) -> Iterator[str]:
    """What to write to so that ``path`` changes in one step: on a disk not the file itself."""
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


def patiently(attempt: Callable[[], _Answer]) -> _Answer:
    """Try again for a quarter of a minute: a storage that hiccups must not cost a trial."""
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
