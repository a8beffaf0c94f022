"""MNIST, or any set in its four idx files (Fashion-MNIST, KMNIST)."""

from pathlib import Path

import numpy as np
import torch

from tkd_search.data.bundle import Split
from tkd_search.data.sources.idx import read_idx
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError

_PARTS = ("train", "t10k")
_FOLDERS = ("", "MNIST/raw", "raw", "FashionMNIST/raw")


def mnist_folder(path: Path) -> Path | None:
    """The folder under ``path`` that holds the four files, plain or gzipped; None where there is none."""
    for folder in (path / name for name in _FOLDERS):
        if all(_file(folder, part, kind) for part in _PARTS for kind in ("images-idx3", "labels-idx1")):
            return folder
    return None


def mnist_looked(path: Path) -> str:
    """Where :func:`mnist_folder` looks, in words."""
    return ", ".join(str(path / name) for name in _FOLDERS)


def read_mnist(folder: Path) -> RawData:
    """Both parts of the set; classes are the labels that occur.

    Raises:
        UserError: a damaged file, or counts that differ; names the file.
    """
    train, test = (_read_part(folder, part) for part in _PARTS)
    if test.images[:1].shape[1:] != train.images[:1].shape[1:]:  # type: ignore[index]
        raise UserError(str(folder), "training and test images of different size", "one size")
    count = 1 + int(max(train.labels.max(), test.labels.max()))
    return RawData(train=train, test=test, classes=tuple(str(label) for label in range(count)))


def _read_part(folder: Path, part: str) -> Split:
    image_file, label_file = _file(folder, part, "images-idx3"), _file(folder, part, "labels-idx1")
    assert image_file is not None
    assert label_file is not None
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise UserError(
            str(label_file),
            f"{len(labels)} labels for the {len(images)} images of {image_file.name}",
            "one label per image",
            "fetch both files again",
        )
    if not len(images) or images.shape[1] != images.shape[2]:
        raise UserError(str(image_file), f"images of shape {images.shape}", "at least one square image")
    pixels = torch.from_numpy(images.copy()).unsqueeze(1)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def _file(folder: Path, part: str, kind: str) -> Path | None:
    for separator in ("-", "."):
        stem = f"{part}-{kind.replace('-', separator)}-ubyte"
        for name in (stem, f"{stem}.gz"):
            if (folder / name).is_file():
                return folder / name
    return None
