"""Files and folders that every node reaches: on this machine's disk, or on ``s3://``, ``gs://``, ``file://``.

A place is a string, a local path or a URI, so that it travels in a job as it is. A local place is used where
it lies. A folder on object storage is written file by file, a manifest at last (it is whole or not there),
and read by each node once, into a cache that is named by its content.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tkd_search.data.atomic import whole_folder
from tkd_search.errors import UserError

MANIFEST = ".whole.json"
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
    base, mark, query = _parts(where)
    return "/".join([base.rstrip("/"), *names]) + mark + query


def local_path(where: str) -> Path | None:
    """The path of a place on this machine's disk, None for one elsewhere."""
    if not is_remote(where):
        return Path(where)
    return Path(where.removeprefix(_FILE)) if where.startswith(_FILE) else None


def _parts(where: str) -> tuple[str, str, str]:
    """A place, ``?`` and what follows: a path on a disk may hold that sign itself."""
    return where.partition("?") if is_remote(where) and not where.startswith(_FILE) else (where, "", "")


def write_error(where: str) -> str:
    """Write, read and delete a small file below a place; '' where that works, else why not."""
    try:
        system, base = _system(where)
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
        system, path = _system(where)
        try:
            with system.open_input_stream(path) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    return _patiently(read)


def write_bytes(where: str, content: bytes) -> None:
    """Write a file in one step: a reader, or a kill, finds the old content or the new."""

    def write() -> None:
        system, path = _system(where)
        with _in_one_step(system, path) as target, system.open_output_stream(target) as file:
            file.write(content)

    _patiently(write)


def delete(where: str) -> None:
    """Delete a file; one that is not there is fine."""
    system, path = _system(where)
    try:
        system.delete_file(path)
    except FileNotFoundError:
        return


def put_file(local: Path, where: str) -> None:
    """Copy a file of this machine to a place."""

    def put() -> None:
        system, path = _system(where)
        with (
            open(local, "rb") as source,
            _in_one_step(system, path) as part,
            system.open_output_stream(part) as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK)

    _patiently(put)


def get_file(where: str, local: Path) -> None:
    """Copy a file from a place to this machine, whole or not at all.

    Raises:
        FileNotFoundError: there is none.
    """

    def get() -> None:
        system, path = _system(where)
        local.parent.mkdir(parents=True, exist_ok=True)
        part = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
        try:
            with system.open_input_stream(path) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            part.replace(local)
        finally:
            part.unlink(missing_ok=True)

    _patiently(get)


# whole folders --------------------------------------------------------------------------------------------


def is_whole(where: str) -> bool:
    """Whether a folder is there, whole."""
    if not is_remote(where):
        return Path(where).is_dir()
    return read_bytes(below(where, MANIFEST)) is not None


@contextmanager
def filling(where: str) -> Iterator[Path]:
    """A local folder to fill; at the end of the block its files are at the place, whole or not at all."""
    if not is_remote(where):
        with whole_folder(Path(where)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tkd-put-") as name:
        folder = Path(name)
        yield folder
        files = {file.name: _digest(file) for file in sorted(folder.iterdir())}
        for file in files:
            put_file(folder / file, below(where, file))
        write_bytes(below(where, MANIFEST), json.dumps(files).encode())


def fetched(where: str) -> Path:
    """A folder that :func:`filling` filled, on this machine: where it lies, or in the node's cache.

    Of several processes of a node one reads, the others wait for it.

    Raises:
        UserError: there is no whole folder.
    """
    if not is_remote(where):
        return Path(where)
    manifest = read_bytes(below(where, MANIFEST))
    if manifest is None:
        raise UserError(where, "no whole folder", "what a search stored", "run the search again")
    key = hashlib.sha256(manifest).hexdigest()[:16]
    files: dict[str, str] = json.loads(manifest)

    def fill(folder: Path) -> None:
        for name, digest in files.items():
            get_file(below(where, name), folder / name)
            if _digest(folder / name) != digest:
                raise OSError(f"{below(where, name)} is damaged: its content does not match {MANIFEST}")

    return _cached(f"{_last_name(where)}-{key}", fill)


def fetched_tree(where: str) -> Path:
    """A folder with all below it, in the node's cache; read again where names, sizes or times have changed.

    Raises:
        UserError: there is nothing, or it cannot be read.
    """
    from pyarrow import fs

    try:
        system, base = _system(where)
        found = _patiently(lambda: system.get_file_info(fs.FileSelector(base, recursive=True)))
        entries = sorted((i.path, i.size, i.mtime_ns) for i in found if i.type == fs.FileType.File)
        if not entries:
            raise FileNotFoundError(f"no files below {where}")
        key = hashlib.sha256(f"{where}{entries}".encode()).hexdigest()[:16]

        def fill(folder: Path) -> None:
            fs.copy_files(base, str(folder / "tree"), source_filesystem=system)
            (folder / "origin").write_text(where)

        return _cached(f"tree-{key}", fill) / "tree"
    except (OSError, ValueError) as error:
        raise UserError(
            where,
            " ".join(str(error).split()),
            "a folder on s3://, gs:// or file:// that this node may read",
            "look whether it is there: aws s3 ls, gcloud storage ls",
        ) from error


def origin(path: Path) -> tuple[str, str] | None:
    """Where a path inside a fetched tree came from: (URI of the tree, path below it); None elsewhere."""
    try:
        below_cache = path.relative_to(node_cache())
    except ValueError:
        return None
    name, *rest = below_cache.parts
    written = node_cache() / name / "origin"
    return (written.read_text(), "/".join(rest[1:])) if written.exists() else None


def node_cache() -> Path:
    """Where this machine keeps what it read: ``TKD_CACHE``, else ``~/.cache/tkd_search``."""
    return Path(os.environ.get("TKD_CACHE") or Path.home() / ".cache" / "tkd_search")


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    target = node_cache() / name
    if target.exists():  # it appears whole or not at all
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with whole_folder(target) as folder:
                fill(folder)
    return target


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _last_name(where: str) -> str:
    return _parts(where)[0].rstrip("/").rpartition("/")[2]


@lru_cache(maxsize=64)
def _root(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(uri)
    return system, path.rstrip("/")


def _system(where: str) -> tuple[Any, str]:
    """File system and path; one connection for all places of a bucket."""
    path = local_path(where)
    if path is not None:  # by hand: a path may hold signs that have a meaning in a URI
        return _root(f"{_FILE}/")[0], str(path.absolute())
    base, mark, query = _parts(where)
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


def _patiently(attempt: Callable[[], _Answer]) -> _Answer:
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
