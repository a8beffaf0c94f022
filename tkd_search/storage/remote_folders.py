"""Folders on a storage, and each node's cache of them.

A folder has a manifest with the length and the SHA-256 of each file; a folder without a manifest does not
count. On object storage the manifest is written last. Each node reads such a folder once, into a cache entry
named by a hash of the manifest. A folder on the local disk is used in place.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tkd_search.errors import UserError
from tkd_search.storage.atomic_folder import (
    atomic_folder,
    finish,
    remove_folder,
    resumable_folder,
    unfinished_folder,
)
from tkd_search.storage.object_store import (
    below,
    delete,
    file_size,
    get_file,
    is_remote,
    last_name,
    local_path,
    open_system,
    put_file,
    read_bytes,
    split_query,
    with_retries,
)

MANIFEST = ".whole.json"
COMPARED_BYTES = 8 << 30
"""Longest file whose checksum is compared before a search uses it. SHA-256 reads 1.3 GB per second and core
(CRC-32: 2 GB), so that a file of this length takes 6 seconds; of longer ones the length alone is compared."""

_log = logging.getLogger(__name__)


def verify_folder(where: str) -> bool:
    """Remove a damaged folder; return whether a folder is there, with all its files.

    Damaged is a folder whose files do not match its manifest. It is removed with a warning, and the caller
    writes it again. Lengths are compared everywhere; checksums on a disk, of files up to ``COMPARED_BYTES``.
    Object storage checks its own content, and :func:`fetch_folder` what it reads from there.
    """
    manifest = read_bytes(below(where, MANIFEST))
    if manifest is None:
        return False
    found = _damage(where, manifest, compared_bytes=COMPARED_BYTES)
    if found:
        _log.warning("%s is damaged (%s): it is made again", where, found)
        _remove(where)
    return not found


def seal_folder(folder: Path) -> None:
    """Write the manifest of a local folder's files."""
    files = {f.name: (f.stat().st_size, _digest(f)) for f in sorted(folder.iterdir()) if f.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(files), encoding="utf-8")


@contextmanager
def write_folder(where: str) -> Iterator[Path]:
    """Yield a local folder whose files are stored at ``where``, atomically, when the block ends."""
    if not is_remote(where):
        with atomic_folder(Path(where)) as folder:
            yield folder
            seal_folder(folder)
        return
    with tempfile.TemporaryDirectory(prefix="tkd-put-") as name:
        folder = Path(name)
        yield folder
        seal_folder(folder)
        _upload(folder, where)


@contextmanager
def write_once(where: str) -> Iterator[Path | None]:
    """Yield a local folder whose files are stored at ``where`` when the block ends; None where it exists.

    One process of a machine writes at a time. After an error or a kill the next call on the machine yields
    the same folder with the files written so far.
    """
    with working_folder(where) as folder:
        if verify_folder(where):
            yield None
            return
        yield folder
        seal_folder(folder)
        if is_remote(where):
            _upload(folder, where)
        else:
            finish(folder, Path(where))


@contextmanager
def working_folder(where: str) -> Iterator[Path]:
    """Yield a folder of this machine in which a process prepares what it will store at ``where``.

    One process has it at a time. It is removed at the end; after an error or a kill it stays, with its files,
    for the next call.
    """
    name = f"put-{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    target = node_cache() / name if is_remote(where) else Path(where)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        folder = unfinished_folder(target)
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def fetch_folder(where: str) -> Path:
    """Return the local path of a folder that :func:`write_folder` wrote: in place, or in the node's cache.

    Of several processes of a node one reads and the others wait for it.

    Raises:
        UserError: the folder is not there, or its manifest is missing.
    """
    if not is_remote(where):
        return Path(where)
    manifest = read_bytes(below(where, MANIFEST))
    if manifest is None:
        found = f"no complete folder ({MANIFEST} is missing)"
        raise UserError(where, found, "a folder that a search stored", "run the search again")
    key = hashlib.sha256(manifest).hexdigest()[:16]

    def fill(folder: Path) -> None:
        for name in json.loads(manifest):
            get_file(below(where, name), folder / name)
        found = _damage(str(folder), manifest, compared_bytes=math.inf)
        if found:
            raise OSError(f"{where} is damaged ({found}): delete it and start the same command again")
        (folder / MANIFEST).write_bytes(manifest)

    return cached_folder(f"{last_name(where)}-{key}", fill)


def fetch_tree(where: str) -> Path:
    """Return the node's cached copy of a folder with all its subfolders.

    The folder is read again after a change of a file's name, size or time.

    Raises:
        UserError: there are no files, or they cannot be read.
    """
    from pyarrow import fs

    try:
        system, base = open_system(where)
        found = with_retries(lambda: system.get_file_info(fs.FileSelector(base, recursive=True)))
        entries = sorted((i.path, i.size, i.mtime_ns) for i in found if i.type == fs.FileType.File)
        if not entries:
            raise FileNotFoundError(f"no files below {where}")
        key = hashlib.sha256(f"{where}{entries}".encode()).hexdigest()[:16]

        def fill(folder: Path) -> None:
            (folder / "tree").mkdir()  # copy_files makes only the folders below it
            fs.copy_files(base, str(folder / "tree"), source_filesystem=system)
            (folder / "origin").write_text(where, encoding="utf-8")

        return cached_folder(f"tree-{key}", fill) / "tree"
    except (OSError, ValueError) as error:
        raise UserError(
            where,
            " ".join(str(error).split()),
            "a folder on s3://, gs:// or file:// that this node may read",
            "list it: aws s3 ls, gcloud storage ls",
        ) from error


def fetch_file(where: str) -> Path:
    """Return a file in the node's cached copy of its folder (:func:`fetch_tree`)."""
    base, mark, query = split_query(where)
    folder, _, name = base.rpartition("/")
    return fetch_tree(folder + mark + query) / name


def origin(path: Path) -> tuple[str, str] | None:
    """Return (URI of the tree, path in it) of a path in a fetched tree; None for any other path."""
    try:
        below_cache = path.resolve().relative_to(node_cache().resolve())
    except ValueError:
        return None
    name, *rest = below_cache.parts
    written = node_cache() / name / "origin"
    return (written.read_text(encoding="utf-8"), "/".join(rest[1:])) if written.exists() else None


def node_cache() -> Path:
    """Return this machine's cache folder: ``TKD_CACHE``, else ``~/.cache/tkd_search``."""
    return Path(os.environ.get("TKD_CACHE") or Path.home() / ".cache" / "tkd_search")


def cached_folder(name: str, fill: Callable[[Path], None], *, resumable: bool = False) -> Path:
    """Return a folder of the node's cache, which ``fill`` writes where it does not exist.

    With ``resumable``, ``fill`` gets the folder of an earlier call that was killed, with its files. Where
    ``fill`` wrote a manifest, an entry with a file of another length is removed and written again.
    """
    target = node_cache() / name
    if _has_its_lengths(target):  # it appears atomically
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{name}.lock")):
        if not _has_its_lengths(target):
            remove_folder(target)
            with (resumable_folder if resumable else atomic_folder)(target) as folder:
                fill(folder)
    return target


def _upload(folder: Path, where: str) -> None:
    """Store the files of a folder, and at last their manifest."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == MANIFEST):
        put_file(file, below(where, file.name))


def _damage(where: str, manifest: bytes, *, compared_bytes: float) -> str:
    """Return what differs between a folder's files and its manifest, '' where nothing does."""
    try:
        files = [(name, int(size), str(digest)) for name, (size, digest) in json.loads(manifest).items()]
    except (ValueError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    folder = local_path(where)
    for name, size, digest in files:
        found = file_size(below(where, name))
        if found != size:
            return f"{name} " + ("is missing" if found is None else f"has {found} of {size} bytes")
        if folder is not None and size <= compared_bytes and _digest(folder / name) != digest:
            return f"{name} has another checksum than when it was written"
    return ""


def _has_its_lengths(entry: Path) -> bool:
    """Return whether an entry of the node's cache exists; one with a manifest, with files of its lengths."""
    manifest = read_bytes(str(entry / MANIFEST))
    return entry.exists() if manifest is None else not _damage(str(entry), manifest, compared_bytes=-1)


def _remove(where: str) -> None:
    folder = local_path(where)
    if folder is None:
        delete(below(where, MANIFEST))
    else:
        remove_folder(folder)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
