"""Whole folders on a storage, and the copies of them that a node keeps.

A folder on object storage is written file by file, a manifest at last (it is whole or not there), and read by
each node once, into a cache that is named by its content. A local one is used where it lies.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tkd_search.errors import UserError
from tkd_search.storage.atomic_folder import whole_folder
from tkd_search.storage.object_store import (
    below,
    get_file,
    is_remote,
    last_name,
    open_system,
    patiently,
    put_file,
    read_bytes,
    write_bytes,
)

MANIFEST = ".whole.json"


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

    return _cached(f"{last_name(where)}-{key}", fill)


def fetched_tree(where: str) -> Path:
    """A folder with all below it, in the node's cache; read again where names, sizes or times have changed.

    Raises:
        UserError: there is nothing, or it cannot be read.
    """
    from pyarrow import fs

    try:
        system, base = open_system(where)
        found = patiently(lambda: system.get_file_info(fs.FileSelector(base, recursive=True)))
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
    with FileLock(target.with_name(f".{name}.lock")):
        if not target.exists():
            with whole_folder(target) as folder:
                fill(folder)
    return target


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
