"""MNIST, or any other set of four idx files (Fashion-MNIST, KMNIST)."""

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
    """Return the folder at or below ``path`` with the four files, plain or gzipped; None if there is none."""
    for folder in (path / name for name in _FOLDERS):
        if all(_file(folder, part, kind) for part in _PARTS for kind in ("images-idx3", "labels-idx1")):
            return folder
    return None


def mnist_places(path: Path) -> str:
    """Return the folders that :func:`mnist_folder` searches, as text."""
    return ", ".join(str(path / name) for name in _FOLDERS)


def read_mnist(folder: Path) -> RawData:
    """Read the training and test parts; the classes are 0 to the largest label.

    Raises:
        UserError: a file is damaged, or numbers of images and labels differ; names the file.
    """
    train, test = (_read_part(folder, part) for part in _PARTS)
    if test.images[:1].shape[1:] != train.images[:1].shape[1:]:  # type: ignore[index]
        raise UserError(str(folder), "training and test images of different sizes", "images of one size")
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
            "download both files again",
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
