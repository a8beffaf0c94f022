"""Upload of a small data set from the user's machine to a cluster's head."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tkd_search.cluster.head import SshHead
from tkd_search.config.experiment_file import Config
from tkd_search.data.sources.table_images import frame_images, is_table, read_frame
from tkd_search.errors import UserError

MAX_UPLOAD_BYTES = 500_000_000
"""Larger data sets are refused: the user's connection would delay the search."""


@dataclass(frozen=True)
class LocalData:
    """Files on this machine that a setting names.

    Attributes:
        key: the setting, ``data.path`` or ``data.unlabelled``.
        path: its folder or file.
        images: of a table the names of its image files that exist, relative to its folder.
    """

    key: str
    path: Path
    images: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        own = [self.path] if self.path.is_file() else self.path.rglob("*")
        images = [self.path.parent / name for name in self.images]
        return sum(file.stat().st_size for file in [*own, *images] if file.is_file())


def local_data(config: Config, key: str) -> LocalData | None:
    """Return what a setting names on this machine; None if it is unset, remote or missing.

    Args:
        config: the experiment.
        key: ``data.path`` or ``data.unlabelled``.

    Raises:
        UserError: a table cannot be read, or names images outside its folder.
    """
    settings = config.settings().data
    value = settings.path if key == "data.path" else settings.unlabelled
    path = Path(value or "").expanduser()
    if not value or "://" in value or not path.exists():
        return None
    if not is_table(path):
        return LocalData(key, path)
    root, found = frame_images(path, read_frame(path, settings.image_column), settings.image_column)
    if root != path.parent:  # the images are in the table itself
        return LocalData(key, path)
    images = [name for name in dict.fromkeys(found) if name and (root / name).is_file()]
    outside = [name for name in images if Path(name).is_absolute() or Path(name).parts[0] == ".."]
    if outside:
        raise UserError(
            key,
            f"{path}, a table of images outside its folder, such as {outside[0]}",
            "images in the table's folder, or a path or URI that all nodes can read",
            "move the table to a folder that contains its images",
        )
    return LocalData(key, path, tuple(images))


def remote_path(data: LocalData, size: int) -> str:
    """Return the path of a data set on the head, below the home; another path or size gives another."""
    digest = hashlib.sha256(f"{data.path.resolve()}:{size}".encode()).hexdigest()[:8]
    return f".tkd/data/{digest}/{re.sub('[^A-Za-z0-9._-]', '_', data.path.name)}"


def send_data(head: SshHead, data: LocalData, print_line: Callable[[str], None]) -> str:
    """Copy a small data set to the head, which distributes it to the nodes.

    Args:
        head: the cluster's head.
        data: the files.
        print_line: receives one line about the copy.

    Returns:
        The value of the setting on the head, in its shell's syntax.

    Raises:
        UserError: the data set is larger than ``MAX_UPLOAD_BYTES``; names a command that copies it.
    """
    size, path = data.size, data.path
    if size > MAX_UPLOAD_BYTES:
        storage = head.file.storage or "s3://your-bucket"
        source = path.parent if data.images else path
        target = f"{storage}/data/{source.name}"
        raise UserError(
            data.key,
            f"{path}: {size / 1e9:.1f} GB on this machine",
            f"at most {MAX_UPLOAD_BYTES / 1e9:.1f} GB, or a path or URI that all nodes can read",
            f"copy it once, for instance with `aws s3 sync {source} {target}`, "
            f"then --set {data.key}={target}{f'/{path.name}' if data.images else ''}",
        )
    remote = remote_path(data, size)
    print_line(f"data       copying {path} ({size / 1e6:.1f} MB) to ~/{remote} on the head")
    head.send(path, remote)
    if data.images:
        head.send(path.parent, str(Path(remote).parent), data.images)
    return f"$HOME/{remote}"
