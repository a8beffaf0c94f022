"""A data set that lies on the user's machine, on its way to a cluster."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tkd_search.cluster.head import SshHead
from tkd_search.cluster.job_package import written
from tkd_search.errors import UserError

LARGEST_UPLOAD = 500_000_000
"""Bytes that are sent without asking; beyond that the user's line would be the bottleneck of the search."""


def local_data(argv: Sequence[str]) -> Path | None:
    """The local file or folder that the run's ``data.path`` names; None where it names none or a remote one.

    Args:
        argv: arguments of ``python -m tkd_search.run``; ``--set data.path=`` beats the file of ``--config``.
    """
    value = written(argv, "data", "path")
    if value is None or "://" in value:
        return None
    path = Path(value).expanduser()
    return path if path.exists() else None


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def remote_folder(path: Path, size: int) -> str:
    """Where a data set lies on the head, in its shell's syntax; another size of it gets another place."""
    digest = hashlib.sha256(f"{path.resolve()}:{size}".encode()).hexdigest()[:8]
    return f".tkd/data/{path.name}-{digest}"


def send_data(head: SshHead, path: Path, say: Callable[[str], None]) -> str:
    """Copy a small data set to the head, which shares it with the nodes.

    Returns:
        The value of ``data.path`` there, in the head's shell syntax.

    Raises:
        UserError: where it is too large to be sent, with what to do instead.
    """
    size = folder_bytes(path)
    if size > LARGEST_UPLOAD:
        storage = head.file.storage or "s3://your-bucket"
        raise UserError(
            "data.path",
            f"{path}: {size / 1e9:.1f} GB on this machine",
            f"at most {LARGEST_UPLOAD / 1e9:.1f} GB, or a place that all nodes reach",
            f"copy it once, for instance with `aws s3 sync {path} {storage}/data/{path.name}`, "
            f"then --set data.path={storage}/data/{path.name}",
        )
    remote = remote_folder(path, size)
    say(f"data       {path} ({size / 1e6:.1f} MB) is copied to the head, ~/{remote}")
    head.send(path, remote)
    return f"$HOME/{remote}"
