"""Upload of a small data set from the user's machine to a cluster's head."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tkd_search.cluster.head import SshHead
from tkd_search.cluster.job_package import setting_text
from tkd_search.errors import UserError

MAX_UPLOAD_BYTES = 500_000_000
"""Larger data sets are refused: the user's connection would delay the search."""


def local_data(argv: Sequence[str], key: str = "path") -> Path | None:
    """Return the local file or folder of the run's ``data.<key>``; None if it is unset, remote or missing.

    Args:
        argv: arguments of ``python -m tkd_search.run``; ``--set data.path=`` overrides the ``--config`` file.
        key: ``path`` or ``unlabelled``.
    """
    value = setting_text(argv, "data", key)
    if value is None or "://" in value:
        return None
    path = Path(value).expanduser()
    return path if path.exists() else None


def folder_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def remote_folder(path: Path, size: int) -> str:
    """Return a data set's folder on the head, relative to the home; another path or size gives another."""
    digest = hashlib.sha256(f"{path.resolve()}:{size}".encode()).hexdigest()[:8]
    return f".tkd/data/{path.name}-{digest}"


def send_data(head: SshHead, path: Path, print_line: Callable[[str], None], key: str = "path") -> str:
    """Copy a small data set to the head, which distributes it to the nodes.

    Args:
        head: the cluster's head.
        path: local file or folder.
        print_line: receives one line about the copy.
        key: setting of ``data`` that names the path.

    Returns:
        The value of the setting on the head, in its shell's syntax.

    Raises:
        UserError: the data set is larger than ``MAX_UPLOAD_BYTES``; names a command that copies it.
    """
    size = folder_bytes(path)
    if size > MAX_UPLOAD_BYTES:
        storage = head.file.storage or "s3://your-bucket"
        raise UserError(
            f"data.{key}",
            f"{path}: {size / 1e9:.1f} GB on this machine",
            f"at most {MAX_UPLOAD_BYTES / 1e9:.1f} GB, or a path or URI that all nodes can read",
            f"copy it once, for instance with `aws s3 sync {path} {storage}/data/{path.name}`, "
            f"then --set data.{key}={storage}/data/{path.name}",
        )
    remote = remote_folder(path, size)
    print_line(f"data       copying {path} ({size / 1e6:.1f} MB) to ~/{remote} on the head")
    head.send(path, remote)
    return f"$HOME/{remote}"
