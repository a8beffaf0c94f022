"""Download of data sets with torchvision, which verifies checksums."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tkd_search.errors import UserError

_CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}

DOWNLOADABLE = tuple(_CLASSES)
"""Sets that torchvision can download."""


def download(name: str, path: Path) -> None:
    """Download and unpack a set into ``path``; nothing is unpickled.

    Raises:
        UserError: torchvision cannot download this set, or the download failed.
    """
    if name not in _CLASSES:
        raise UserError("data.download", f"true for {name}", f"true for {', '.join(_CLASSES)}")
    from tkd_search.models.torchvision_compat import torchvision

    kind = getattr(torchvision.datasets, _CLASSES[name])
    fetch = torchvision.datasets.utils
    try:
        if name == "mnist":
            for filename, checksum in kind.resources:
                _download_from(fetch, kind.mirrors, path / "MNIST" / "raw", filename, checksum)
        else:
            # Not the class itself: its constructor unpickles the files.
            fetch.download_and_extract_archive(kind.url, str(path), filename=kind.filename, md5=kind.tgz_md5)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            "data.download",
            f"{name} could not be downloaded into {path}: {error}",
            "a network that reaches the set's servers, and a folder that can be written",
            f"or copy the files into {path}",
        ) from error


def _download_from(fetch: Any, mirrors: Sequence[str], folder: Path, filename: str, checksum: str) -> None:
    """Download one file from the first mirror that has it."""
    for position, mirror in enumerate(mirrors, start=1):
        try:
            fetch.download_url(f"{mirror}{filename}", str(folder), filename, checksum)
        except (OSError, RuntimeError):
            if position == len(mirrors):
                raise
        else:
            return
