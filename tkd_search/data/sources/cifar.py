"""CIFAR-10 and CIFAR-100 in their original python or binary files."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tkd_search.data.bundle import Split
from tkd_search.data.sources.raw_data import RawData
from tkd_search.data.sources.safe_pickle import read_plain_pickle
from tkd_search.errors import UserError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """File names and keys of one form of a set: ``binary`` or python files."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    names_key: str
    labels_key: str
    binary: bool
    label_bytes: int
    classes: int


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cifar10": (
        Layout(
            "cifar-10-batches-py",
            _BATCHES,
            ("test_batch",),
            "batches.meta",
            "label_names",
            "labels",
            False,
            1,
            10,
        ),
        Layout(
            "cifar-10-batches-bin",
            tuple(f"{name}.bin" for name in _BATCHES),
            ("test_batch.bin",),
            "batches.meta.txt",
            "",
            "",
            True,
            1,
            10,
        ),
    ),
    "cifar100": (
        Layout(
            "cifar-100-python",
            ("train",),
            ("test",),
            "meta",
            "fine_label_names",
            "fine_labels",
            False,
            1,
            100,
        ),
        Layout(
            "cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", True, 2, 100
        ),
    ),
}


def cifar_folder(name: str, path: Path) -> tuple[Path, Layout] | None:
    """Return the folder at or below ``path`` with all files of a form of the set, and the form; else None."""
    for layout in LAYOUTS[name]:
        for folder in (path / layout.folder, path):
            if all((folder / file).is_file() for file in (*layout.train, *layout.test)):
                return folder, layout
    return None


def cifar_places(name: str, path: Path) -> str:
    """Return the folders that :func:`cifar_folder` searches, as text."""
    return ", ".join(str(path / layout.folder) for layout in LAYOUTS[name]) + f", {path}"


def read_cifar(folder: Path, layout: Layout) -> RawData:
    """Read the training and test parts of the set.

    Raises:
        UserError: a file is damaged, or a python file has more than plain data; names the file.
    """
    read = _read_binary if layout.binary else _read_python
    parts = [
        _joined([read(folder / file, layout) for file in files]) for files in (layout.train, layout.test)
    ]
    return RawData(train=parts[0], test=parts[1], classes=_class_names(folder, layout))


def _joined(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Split:
    pixels = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches]).astype(np.int64)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))


def _read_python(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickled(path)
    images, labels = batch.get("data"), batch.get(layout.labels_key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise _damaged(path, f"no 'data' of {_PIXELS} bytes per image")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise _damaged(path, f"no list {layout.labels_key!r} of integers")
    return images, _checked(path, images, np.array(labels, dtype=np.int64), layout)


def _read_binary(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    record = layout.label_bytes + _PIXELS
    if not len(content) or len(content) % record:
        raise _damaged(path, f"{len(content)} bytes, not a multiple of {record}")
    records = content.reshape(-1, record)
    images = records[:, layout.label_bytes :]
    return images, _checked(path, images, records[:, layout.label_bytes - 1], layout)


def _checked(path: Path, images: np.ndarray, labels: np.ndarray, layout: Layout) -> np.ndarray:
    if len(images) != len(labels):
        raise _damaged(path, f"{len(labels)} labels for {len(images)} images")
    if not len(labels) or labels.min() < 0 or labels.max() >= layout.classes:
        raise _damaged(path, f"no labels, or labels outside 0 to {layout.classes - 1}")
    return labels


def _class_names(folder: Path, layout: Layout) -> tuple[str, ...]:
    """Return the class names, or the class numbers as text where there is no file with all names."""
    path, names = folder / layout.names, list[str]()
    if path.is_file():
        found = (
            path.read_text(encoding="utf-8").split()
            if layout.binary
            else _unpickled(path).get(layout.names_key)
        )
        names = found if isinstance(found, list) else []
    if len(names) != layout.classes:
        return tuple(str(label) for label in range(layout.classes))
    return tuple(names)


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        return read_plain_pickle(path.read_bytes())
    except (pickle.UnpicklingError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, found: str) -> UserError:
    return UserError(
        str(path), found, "an original CIFAR file with images and labels only", "download the set again"
    )
