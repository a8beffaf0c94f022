"""Tables of images: a CSV or parquet file with a column of images and a column of labels."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.listed_images import Listing, load_listed
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError
from tkd_search.storage.remote_folders import cached_folder

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".parquet")
SPLIT_COLUMN = "split"
_PARTS = {"val": "validation", "valid": "validation"} | {
    name: name for name in ("train", "validation", "test")
}

Image = str | bytes | None
"""An image's path or its encoded bytes; None where a row has neither."""


def is_table(path: Path) -> bool:
    """Return whether ``path`` is a file that is named as a table."""
    return path.is_file() and path.suffix.lower() in TABLE_SUFFIXES


def read_table(path: Path, settings: DataSettings) -> RawData:
    """Read a table's images, in the order of its rows.

    An image is a path relative to the table, encoded bytes, or ``{bytes, path}`` as Hugging Face data sets
    store it. Bytes are written once as files into this machine's cache. Labels are whole numbers (classes in
    numerical order, or by the names in a Hugging Face schema) or texts (in text order). The column ``split``,
    where there is one, is train, validation or test.

    Raises:
        UserError: the table, a column, a label or a split is not of this kind, or the settings do not allow
            rows without image or label; and the errors of :func:`load_listed`.
    """
    frame = _frame(path)
    for key, name in (("image_column", settings.image_column), ("label_column", settings.label_column)):
        if name not in frame.columns:
            columns = ", ".join(map(str, frame.columns))
            raise UserError(f"data.{key}", f"{name!r}, which {path} does not have", f"one of {columns}")
    classes, labels = _labels(path, _values(frame[settings.label_column]), settings.label_column)
    images = [_image(value) for value in _values(frame[settings.image_column])]
    root, files = _files(path, settings.image_column, images)
    parts: dict[str, Listing] = {"train": []}
    unusable = []
    for row, (file, label, part) in enumerate(zip(files, labels, _parts(path, frame), strict=True), start=1):
        if file is None or label is None:
            unusable.append(f"{path}, row {row}: no {'image' if file is None else 'label'}")
        else:
            parts.setdefault(part, []).append((file, label))
    if not parts["train"]:
        raise UserError(str(path), "no images with labels to train on", f"rows with {SPLIT_COLUMN} = train")
    return load_listed(root, parts, classes, settings, unusable)


def _frame(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path, dtype_backend="numpy_nullable")
        # A class may be called NA or null: only an empty field is missing.
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:  # errors of format are ValueErrors
        reason = " ".join(str(error).split())[:200]
        raise UserError(str(path), f"no readable table ({reason})", "a CSV or parquet file") from error


def _values(column: "pd.Series[Any]") -> list[Any]:
    """Return a column as plain values, None where it is empty."""
    return [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]


def _labels(path: Path, values: Sequence[Any], column: str) -> tuple[tuple[str, ...], list[int | None]]:
    """Return class names, and the label of every row; None where a row has none."""
    if all(isinstance(value, str) for value in values if value is not None):
        keys = values
    else:
        where = f"{path}, column {column}"
        keys = [None if value is None else _whole_number(value, where) for value in values]
        if names := _names_of_schema(path, column):
            # Hugging Face writes -1 for a missing label.
            return names, [key if key is not None and 0 <= key < len(names) else None for key in keys]
    classes = sorted({key for key in keys if key is not None})
    label_of = {key: label for label, key in enumerate(classes)}
    return tuple(map(str, classes)), [None if key is None else label_of[key] for key in keys]


def _whole_number(value: Any, where: str) -> int:
    """Return a label as an integer; columns with empty fields may hold whole numbers as floats."""
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return int(float(value))
    raise UserError(where, str(value), "whole numbers alone, or texts alone")


def _names_of_schema(path: Path, column: str) -> tuple[str, ...]:
    """Return the class names in the schema that Hugging Face writes into a parquet file, else ()."""
    if path.suffix.lower() != ".parquet":
        return ()
    import pyarrow.parquet as pq

    metadata: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
    schema = json.loads(metadata.get(b"huggingface", b"{}"))
    feature = schema.get("info", {}).get("features", {}).get(column, {})
    return tuple(feature.get("names", ()))


def _parts(path: Path, frame: "pd.DataFrame") -> list[str]:
    """Return the part of every row."""
    if SPLIT_COLUMN not in frame.columns:
        return ["train"] * len(frame)
    parts = []
    for row, value in enumerate(_values(frame[SPLIT_COLUMN]), start=1):
        if str(value) not in _PARTS:
            raise UserError(f"{path}, row {row}, column {SPLIT_COLUMN}", repr(value), ", ".join(_PARTS))
        parts.append(_PARTS[str(value)])
    return parts


def _image(value: Any) -> Image:
    """Return an image from a cell: a path, bytes, or a dictionary with either."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) and value else None


def _files(path: Path, column: str, images: Sequence[Image]) -> tuple[Path, list[str | None]]:
    """Return a root and the images' files relative to it; bytes are written as files into the cache."""
    if not any(isinstance(image, bytes) for image in images):
        return path.parent, [None if image is None else os.path.normpath(str(image)) for image in images]
    state = path.stat()
    identity = f"{path.absolute()}:{state.st_size}:{state.st_mtime_ns}:{column}"

    def fill(folder: Path) -> None:
        for row, image in enumerate(images, start=1):
            if isinstance(image, bytes):
                (folder / _row_name(row)).write_bytes(image)

    root = cached_folder(f"table-{hashlib.sha256(identity.encode()).hexdigest()[:16]}", fill)
    return root, [
        _row_name(row) if isinstance(image, bytes) else image and str((path.parent / image).absolute())
        for row, image in enumerate(images, start=1)
    ]


def _row_name(row: int) -> str:
    return f"row{row:08d}"
