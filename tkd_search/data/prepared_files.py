"""A bundle on disk for workers: ``.npy`` files of every split and a JSON file.

The files are memory-mapped, so that all processes of a machine share one copy of the images. Images that
exceed the memory are not among them: they lie decoded in the cache of each machine, or are streamed.
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
from tkd_search.data.image_files import DecodedStore, FolderStore, damaged_image
from tkd_search.data.scan_images import scan_once
from tkd_search.errors import UserError
from tkd_search.storage import remote_folders
from tkd_search.storage.atomic_folder import atomic_folder

_SCHEMA = 1
_PARTS = ("train", "validation", "test")


def save_prepared(bundle: DataBundle, folder: str | Path) -> None:
    """Write a bundle atomically; an existing folder is replaced.

    Any other store than a tensor is written as the list of its files, and where they are decoded here, as
    the place of the decoded images.
    """
    with atomic_folder(Path(folder)) as partial:
        streamed = {}
        for part, split in bundle.splits().items():
            images = split.images
            _save(partial / f"{part}_labels.npy", split.labels)
            if isinstance(images, Tensor):
                _save(partial / f"{part}_images.npy", images)
            else:
                streamed[part] = _save_store(partial, part, images)
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


def image_roots(bundle: DataBundle) -> list[str]:
    """Return the folders of the images that are read from files, sorted; [] where all are in memory."""
    stores = [split.images for split in bundle.splits().values()]
    sources = [store.source if isinstance(store, DecodedStore) else store for store in stores]
    roots = {os.path.abspath(source.root) for source in sources if isinstance(source, FolderStore)}
    return sorted(roots)


def _save(path: Path, values: Tensor) -> None:
    """Write a ``.npy`` file; ``np.save`` hides the error of a full disk behind another one."""
    array = np.ascontiguousarray(values.numpy())
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _save_store(folder: Path, part: str, images: ImageStore) -> dict[str, Any]:
    """Write where the images of a part are, and return what :func:`_store` needs beside."""
    decoded = None
    if isinstance(images, DecodedStore) and images.source is not None:
        decoded = str(images.file.absolute())
        _save(folder / f"{part}_rows.npy", images.rows)
        images = images.source
    if not isinstance(images, FolderStore):
        raise TypeError(f"cannot store images of {type(images).__name__}")
    (folder / f"{part}_files.json").write_text(json.dumps(images.files), encoding="utf-8")
    # Unlabelled images lie outside the root; a node needs their folder in its cache too.
    outside = {os.path.dirname(name) for name in images.files if name.startswith("..")}
    places = [Path(os.path.realpath(os.path.join(images.root, name))) for name in outside]
    trees = sorted({found[0] for place in places if (found := remote_folders.origin(place))})
    content = {"size": images.size, "channels": images.channels, "decoded": decoded, "trees": trees}
    origin = remote_folders.origin(Path(images.root))
    if origin is None:
        return {**content, "root": str(Path(images.root).expanduser().absolute())}
    # Every node reads the files from their origin into its own cache.
    return {**content, "root": origin[0], "below": origin[1]}


def _mapped(folder: Path, part: str, streamed: dict[str, Any]) -> Split:
    labels = torch.from_numpy(np.load(folder / f"{part}_labels.npy"))
    if part in streamed:
        return Split(_store(folder, part, streamed[part]), labels)
    # Mode c (copy on write): torch has no read-only tensors. Nothing writes, so nothing is copied.
    return Split(torch.from_numpy(np.load(folder / f"{part}_images.npy", mmap_mode="c")), labels)


def _store(folder: Path, part: str, content: dict[str, Any]) -> ImageStore:
    """Return the images of a part that are not in its folder.

    A machine that lacks the decoded images decodes them into its own cache.
    """
    if content["decoded"] and Path(content["decoded"]).exists():
        return DecodedStore(Path(content["decoded"]), torch.from_numpy(np.load(folder / f"{part}_rows.npy")))
    names = json.loads((folder / f"{part}_files.json").read_text(encoding="utf-8"))
    files = FolderStore(_root(content), tuple(names), content["size"], content["channels"])
    if not content["decoded"]:
        return files
    paths = [files.path(position) for position in range(len(files))]
    scanned = scan_once(paths, files.size, files.channels, disk_budget_gb=None)
    if scanned.broken:
        raise damaged_image(next(iter(scanned.broken.values())))
    return files if scanned.file is None else DecodedStore(scanned.file, torch.arange(len(files)), files)


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
