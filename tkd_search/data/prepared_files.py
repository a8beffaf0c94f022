"""A bundle on disk for workers: ``.npy`` files of every split and a JSON file.

The files are memory-mapped, so that all processes of a machine share one copy of the images.
"""

import json
import os
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
    """Write a bundle atomically; an existing folder is replaced.

    A streamed store is written as the list of its files.
    """
    with atomic_folder(Path(folder)) as partial:
        streamed = {}
        for part, split in bundle.splits().items():
            _save(partial / f"{part}_labels.npy", split.labels)
            if isinstance(split.images, Tensor):
                _save(partial / f"{part}_images.npy", split.images)
            else:
                streamed[part] = _store_content(split.images)
        content = {
            "schema": _SCHEMA,
            "name": bundle.name,
            "classes": bundle.classes,
            "mean": bundle.mean,
            "std": bundle.std,
            "digest": bundle.digest,
            "streamed": streamed,
        }
        (partial / "bundle.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_prepared(folder: str | Path) -> DataBundle:
    """Return a memory-mapped bundle that :func:`save_prepared` wrote.

    Pages are read on first use and shared with other processes.

    Raises:
        UserError: it is missing or damaged.
    """
    path = Path(folder)
    try:
        content = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        train, validation, test = (_mapped(path, part, content["streamed"]) for part in _PARTS)
        return DataBundle(
            name=content["name"],
            train=train,
            validation=validation,
            test=test,
            classes=tuple(content["classes"]),
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            digest=content["digest"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            str(path),
            f"no complete prepared data set: {error}",
            "a data set that a search prepared",
            "delete the folder; the search prepares it again",
        ) from error


def _save(path: Path, values: Tensor) -> None:
    """Write a ``.npy`` file; ``np.save`` hides the error of a full disk behind another one."""
    array = np.ascontiguousarray(values.numpy())
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _store_content(store: ImageStore) -> dict[str, Any]:
    if not isinstance(store, FolderStore):
        raise TypeError(f"cannot store images of {type(store).__name__}")
    # Unlabelled images lie outside the root; a node needs their folder in its cache too.
    outside = {os.path.dirname(name) for name in store.files if name.startswith("..")}
    places = [Path(os.path.realpath(os.path.join(store.root, folder))) for folder in outside]
    trees = {found[0] for place in places if (found := remote_folders.origin(place))}
    content = {"files": store.files, "size": store.size, "channels": store.channels, "trees": sorted(trees)}
    origin = remote_folders.origin(Path(store.root))
    if origin is None:
        return {**content, "root": str(Path(store.root).expanduser().absolute())}
    # Every node reads the files from their origin into its own cache.
    return {**content, "root": origin[0], "below": origin[1]}


def _mapped(folder: Path, part: str, streamed: dict[str, Any]) -> Split:
    labels = torch.from_numpy(np.load(folder / f"{part}_labels.npy"))
    if part in streamed:
        store = streamed[part]
        files = FolderStore(_root(store), tuple(store["files"]), store["size"], store["channels"])
        return Split(files, labels)
    # Mode c (copy on write): torch has no read-only tensors. Nothing writes, so nothing is copied.
    return Split(torch.from_numpy(np.load(folder / f"{part}_images.npy", mmap_mode="c")), labels)


def _root(store: dict[str, Any]) -> str:
    """Return the folder of streamed images on this machine."""
    for tree in store.get("trees", ()):
        remote_folders.fetch_tree(tree)
    if storage.is_remote(store["root"]):
        return str(remote_folders.fetch_tree(store["root"]) / store["below"])
    if not Path(store["root"]).is_dir():
        raise UserError(
            "data.path",
            f"{store['root']}, which the node {socket.gethostname()} does not have",
            "a folder that all nodes share, or s3://, gs://",
            "copy it there (aws s3 sync, gcloud storage rsync), then --set data.path=s3://…",
        )
    return str(store["root"])
