"""Fetching a set with torchvision, which checks what it fetched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tkd_search.errors import UserError

_CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}

DOWNLOADABLE = tuple(_CLASSES)
"""Sets that torchvision can fetch."""


def download(name: str, path: Path) -> None:
    """Let torchvision fetch and unpack a set into ``path``; nothing is unpickled.

    Raises:
        UserError: a set it cannot fetch, or the download failed.
    """
    if name not in _CLASSES:
        raise UserError("data.download", f"true for {name}", f"for {', '.join(_CLASSES)} alone")
    from tkd_search.models.torchvision_compat import torchvision

    kind = getattr(torchvision.datasets, _CLASSES[name])
    fetch = torchvision.datasets.utils
    try:
        if name == "mnist":
            for filename, checksum in kind.resources:
                _from_any(fetch, kind.mirrors, path / "MNIST" / "raw", filename, checksum)
        else:
            # Not the class itself: its constructor unpickles what it fetched.
            fetch.download_and_extract_archive(kind.url, str(path), filename=kind.filename, md5=kind.tgz_md5)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            "data.download",
            f"{name} could not be fetched into {path}: {error}",
            "a network that reaches the set's servers, and a folder that can be written",
            f"or put the files into {path} yourself",
        ) from error


def _from_any(fetch: Any, mirrors: Sequence[str], folder: Path, filename: str, checksum: str) -> None:
    """One file from the first mirror that has it."""
    for position, mirror in enumerate(mirrors, start=1):
        try:
            fetch.download_url(f"{mirror}{filename}", str(folder), filename, checksum)
        except (OSError, RuntimeError):
            if position == len(mirrors):
                raise
        else:
            return
