"""A bundle on disk, as workers map it: one .npy per split and a JSON beside them.

Mapped files are shared between the processes of a machine: eight trials hold one copy of the images.
"""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tkd_search import storage
from tkd_search.data.bundle import DataBundle, ImageStore, Split
from tkd_search.data.image_files import FolderStore
from tkd_search.errors import UserError
from tkd_search.storage import remote_folders
from tkd_search.storage.atomic_folder import atomic_folder

_SCHEMA = 1
_PARTS = ("train", "validation", "test")


def save_prepared(bundle: DataBundle, folder: str | Path) -> None:
    """Write a bundle, whole or not at all; a folder of that name is replaced.

    A streamed store is kept as the list of its files.
    """
    with atomic_folder(Path(folder)) as partial:
        streamed = {}
        for part, split in bundle.splits().items():
            _save(partial / f"{part}_labels.npy", split.labels)
            if isinstance(split.images, Tensor):
                _save(partial / f"{part}_images.npy", split.images)
            else:
                streamed[part] = _described(split.images)
        described = {
            "schema": _SCHEMA,
            "name": bundle.name,
            "classes": bundle.classes,
            "mean": bundle.mean,
            "std": bundle.std,
            "digest": bundle.digest,
            "streamed": streamed,
        }
        (partial / "bundle.json").write_text(json.dumps(described, ensure_ascii=False, indent=1))


def load_prepared(folder: str | Path) -> DataBundle:
    """Map what :func:`save_prepared` wrote; pages are read on first use and shared with other processes.

    Raises:
        UserError: there is none, or it is damaged.
    """
    place = Path(folder)
    try:
        described = json.loads((place / "bundle.json").read_text())
        if described["schema"] != _SCHEMA:
            raise ValueError(f"schema {described['schema']}")
        splits = {part: _mapped(place, part, described["streamed"]) for part in _PARTS}
        return DataBundle(
            name=described["name"],
            classes=tuple(described["classes"]),
            mean=tuple(described["mean"]),
            std=tuple(described["std"]),
            digest=described["digest"],
            **splits,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            str(place), f"no whole prepared data set: {error}", "what a search prepared", "delete the folder"
        ) from error


def _save(path: Path, values: Tensor) -> None:
    """What ``np.save`` writes; its own error on a full disk does not say that it was one."""
    array = np.ascontiguousarray(values.numpy())
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _described(store: ImageStore) -> dict[str, Any]:
    if not isinstance(store, FolderStore):
        raise TypeError(f"cannot store images of {type(store).__name__}")
    described = {"files": store.files, "size": store.size, "channels": store.channels}
    came_from = remote_folders.origin(Path(store.root))
    if came_from is None:
        return {**described, "root": str(Path(store.root).expanduser().absolute())}
    # Every node reads the files from where they came into its own cache.
    return {**described, "root": came_from[0], "below": came_from[1]}


def _mapped(place: Path, part: str, streamed: dict[str, Any]) -> Split:
    labels = torch.from_numpy(np.load(place / f"{part}_labels.npy"))
    if part in streamed:
        store = streamed[part]
        files = FolderStore(_root(store), tuple(store["files"]), store["size"], store["channels"])
        return Split(files, labels)
    # Copy on write, since torch has no read-only tensors; nobody writes, so nothing is copied.
    return Split(torch.from_numpy(np.load(place / f"{part}_images.npy", mmap_mode="c")), labels)


def _root(store: dict[str, Any]) -> str:
    """The folder of streamed images on this machine."""
    if storage.is_remote(store["root"]):
        return str(remote_folders.fetch_tree(store["root"]) / store["below"])
    if not Path(store["root"]).is_dir():
        raise UserError(
            "data.path",
            f"{store['root']}, which the node {socket.gethostname()} does not have",
            "a folder that all nodes share, or s3://, gs://",
            "copy it once (aws s3 sync, gcloud storage rsync), then --set data.path=s3://…",
        )
    return str(store["root"])
