"""Data sets of Hugging Face's library ``datasets``: a folder of ``save_to_disk``, or a name on the hub."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.raw_data import RawData
from tkd_search.data.sources.tables import Row, load_rows
from tkd_search.errors import UserError
from tkd_search.storage.remote_folders import cached_folder

if TYPE_CHECKING:
    from datasets import Dataset

_USUAL_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}


def read_hugging_face(path: Path, settings: DataSettings) -> RawData:
    """Read the splits of a data set, in the order of their rows.

    Images are written once, as files, into this machine's cache. Labels are those of a ``ClassLabel`` column
    in its order, or as in a table.

    Args:
        path: folder, or a name on the hub.
        settings: names of splits and columns.

    Raises:
        UserError: the library or the data set is missing, a split or a column does not exist, or the rows do
            not suffice (:func:`~tkd_search.data.sources.tables.load_rows`).
    """
    splits = _load(path)
    chosen = _chosen(path, splits, settings)
    images = {part: _encoded(splits[name], settings) for part, name in chosen.items()}
    state = hashlib.sha256(settings.image_column.encode())
    for part, split in images.items():
        state.update(f"{part}:{split._fingerprint};".encode())  # its only name that does not read the rows
        for file in split.cache_files:  # the fingerprint of a set that was built again may be the same
            stat = os.stat(file["filename"])
            state.update(f"{stat.st_size}:{stat.st_mtime_ns};".encode())

    def fill(folder: Path) -> None:
        for part, split in images.items():
            for number, row in enumerate(split):
                content = _content(row[settings.image_column])
                if content:
                    (folder / _file(part, number)).write_bytes(content)

    root = cached_folder(f"hf-{state.hexdigest()[:16]}", fill)
    rows = [
        Row(f"{path}, split {chosen[part]}, row {number}", _existing(root, part, number), label, part)
        for part, split in images.items()
        for number, label in enumerate(_labels(path, splits, chosen[part], chosen["train"], settings))
    ]
    names = _names(splits[chosen["train"]], settings)
    raw = load_rows(root, rows, names, settings, f"{path}, column {settings.label_column}")
    unused = sorted(set(splits) - set(chosen.values()))
    note = (f"data: splits of {path} that are not used: {', '.join(unused)}",) if unused else ()
    return replace(raw, notes=(*note, *raw.notes))


def _load(path: Path) -> Mapping[str, "Dataset"]:
    """Return the splits by name; a data set without splits is ``train``."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "data.name", "hf, without the library datasets", "the extra hf", "pip install 'tkd_search[hf]'"
        ) from error
    stored = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        found: Any = datasets.load_from_disk(str(path)) if stored else datasets.load_dataset(str(path))
    except Exception as error:  # the library raises errors of many packages
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            "data.path",
            f"{path} ({reason})",
            "a folder that save_to_disk wrote, or the name of a data set on the hub",
            "without network: load_dataset(NAME).save_to_disk(FOLDER) elsewhere, then --set data.path=FOLDER",
        ) from error
    return found if isinstance(found, Mapping) else {"train": found}


def _chosen(path: Path, splits: Mapping[str, Any], settings: DataSettings) -> dict[str, str]:
    """Return the split of each part: the named one, else one of a usual name that no other part has."""
    named = {part: getattr(settings, f"{part}_split") for part in _USUAL_NAMES}
    free = [name for name in splits if name not in named.values()]
    for part, usual in _USUAL_NAMES.items():
        named[part] = named[part] or next((name for name in usual if name in free), None)
        if named[part] not in splits and (named[part] or part == "train"):
            raise UserError(
                f"data.{part}_split", f"{named[part]}, of {path}", f"one of {', '.join(map(str, splits))}"
            )
    return {part: name for part, name in named.items() if name}


def _names(split: "Dataset", settings: DataSettings) -> tuple[str, ...]:
    """Return the class names of the label column, () where it has none."""
    return tuple(getattr(split.features[settings.label_column], "names", ()))


def _labels(
    path: Path, splits: Mapping[str, "Dataset"], name: str, train: str, settings: DataSettings
) -> Sequence[Any]:
    """Return the labels of a split, numbered as in the split ``train``.

    Raises:
        UserError: the split has a class name that ``train`` lacks.
    """
    labels = splits[name][settings.label_column]
    own, names = _names(splits[name], settings), _names(splits[train], settings)
    if not own or not names or own == names:
        return labels
    if lacking := [one for one in own if one not in names]:
        raise UserError(
            f"data.label_column {settings.label_column!r}, of {path}",
            f"class names {lacking[:5]} in split {name}",
            f"names of split {train}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}",
            "rename these classes, or load the split without them",
        )
    number_of = {number: names.index(one) for number, one in enumerate(own)}
    return [number_of.get(label) for label in labels]


def _encoded(split: "Dataset", settings: DataSettings) -> "Dataset":
    """Return a split whose images are not decoded."""
    from datasets import Image

    for key, column in (("image_column", settings.image_column), ("label_column", settings.label_column)):
        if column not in split.column_names:
            raise UserError(f"data.{key}", repr(column), f"one of {', '.join(split.column_names)}")
    one = split.select_columns([settings.image_column])
    decoded = isinstance(one.features[settings.image_column], Image)
    return one.cast_column(settings.image_column, Image(decode=False)) if decoded else one


def _content(image: Any) -> bytes:
    """Return an image's encoded bytes; none where there is no image."""
    if isinstance(image, str | bytes):
        image = {"path" if isinstance(image, str) else "bytes": image}
    if not isinstance(image, dict):
        return b""
    if image.get("bytes"):
        return bytes(image["bytes"])
    file = Path(image.get("path") or "")
    return file.read_bytes() if file.is_file() else b""


def _file(part: str, number: int) -> str:
    return f"{part}{number:08d}"


def _existing(root: Path, part: str, number: int) -> str | None:
    name = _file(part, number)
    return name if (root / name).exists() else None
