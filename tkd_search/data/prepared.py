"""A finished data set on disk, so that every worker maps the same arrays instead of decoding again."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tkd_search.data.types import DataBundle, Split

DATA_FILE = "data.safetensors"


def save_prepared(bundle: DataBundle, folder: Path) -> None:
    """Write the three splits; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, split in bundle.splits().items():
        assert isinstance(split.images, Tensor)
        tensors[f"{name}.images"] = split.images.contiguous()
        tensors[f"{name}.labels"] = split.labels.contiguous()
    meta = {
        "name": bundle.name,
        "classes": list(bundle.classes),
        "mean": list(bundle.mean),
        "std": list(bundle.std),
        "digest": bundle.digest,
    }
    temporary = folder / f".{DATA_FILE}.part"
    save_file(tensors, temporary, metadata={"bundle": json.dumps(meta)})
    temporary.replace(folder / DATA_FILE)


def load_prepared(folder: Path) -> DataBundle:
    """Map a data set written by :func:`save_prepared`; its pages are shared by every process of a node.

    Raises:
        FileNotFoundError: nothing was prepared there.
    """
    file = folder / DATA_FILE
    with safe_open(file, framework="pt") as opened:
        meta = json.loads(opened.metadata()["bundle"])
    tensors = load_file(file)
    splits = {
        name: Split(tensors[f"{name}.images"], tensors[f"{name}.labels"])
        for name in ("train", "validation", "test")
    }
    return DataBundle(
        name=meta["name"],
        classes=tuple(meta["classes"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        digest=meta["digest"],
        **splits,
    )
