"""Tables of images: a CSV or parquet file with a column of images and a column of labels."""

import json
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.class_names import PART_NAMES, class_name, part_name
from tkd_search.data.sources.listed_images import Listing, load_listed
from tkd_search.data.sources.raw_data import RawData
from tkd_search.data.sources.table_images import column_values, frame_images, read_frame, readable_table
from tkd_search.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SPLIT_COLUMN = "split"

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_FRACTION = re.compile(r"\.0*[1-9]")


def read_table(path: Path, settings: DataSettings) -> RawData:
    """Read a table's images, in the order of its rows.

    For images see :func:`~tkd_search.data.sources.table_images.frame_images`. Labels are whole numbers
    (classes in numerical order, or by the names in a Hugging Face schema), texts (in text order; see
    :func:`~tkd_search.data.sources.class_names.class_name`) or true and false. The
    column ``split``, where there is one, is train, validation or test.

    Raises:
        UserError: the table, a column, a label or a split is not of this kind, or the settings do not allow
            rows without image or label; and the errors of :func:`load_listed`.
    """
    frame = read_frame(path, settings.image_column)
    root, files = frame_images(path, frame, settings.image_column)
    values = column_values(path, frame, "label_column", settings.label_column)
    values = values if path.suffix.lower() == ".parquet" else _numbers(values)
    rows = [
        Row(f"{path}, row {row}", *cells)
        for row, cells in enumerate(zip(files, values, _parts(path, frame), strict=True), start=1)
    ]
    names = _names_of_schema(path, settings.label_column)
    return load_rows(root, rows, names, settings, f"{path}, column {settings.label_column}")


class Row(NamedTuple):
    """A row: where it is, its image file (None: it has none), its label as written, and its part."""

    place: str
    file: str | None
    label: Any
    part: str


def load_rows(
    root: Path, rows: Sequence[Row], names: tuple[str, ...], settings: DataSettings, where: str
) -> RawData:
    """Return the images of rows.

    Args:
        root: folder that their files are relative to.
        rows: in order.
        names: class names where labels are their positions, else ().
        settings: size, memory budget and what to do with unusable rows.
        where: the column of labels, for errors.

    Raises:
        UserError: no row of the part ``train``, a label of another kind; and the errors of
            :func:`load_listed`.
    """
    classes, labels = _labels([row.label for row in rows], names, where)
    parts: dict[str, Listing] = {"train": []}
    unusable = []
    for row, label in zip(rows, labels, strict=True):
        if row.file is None or label is None:
            unusable.append(f"{row.place}: no {'image' if row.file is None else 'label'}")
        else:
            parts.setdefault(row.part, []).append((row.file, label))
    if not parts["train"]:
        reason = f" ({unusable[0]})" if unusable else ""
        allowed = f"rows with {SPLIT_COLUMN} = train"
        raise UserError(where, f"no images with labels to train on{reason}", allowed)
    return load_listed(root, parts, classes, settings, unusable)


def _labels(
    values: Sequence[Any], names: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], list[int | None]]:
    """Return class names, and the label of every row; None where a row has none."""
    values = [str(value) if isinstance(value, bool | np.bool_) else value for value in values]
    if all(isinstance(value, str) for value in values if value is not None):
        keys: list[Any] = [class_name(value) if value and value.strip() else None for value in values]
    else:
        keys = [None if value is None else _whole_number(value, where) for value in values]
        if names:
            # Hugging Face writes -1 for a missing label.
            return names, [key if key is not None and 0 <= key < len(names) else None for key in keys]
    classes = sorted({key for key in keys if key is not None})
    label_of = {key: label for label, key in enumerate(classes)}
    return tuple(map(str, classes)), [None if key is None else label_of[key] for key in keys]


def _numbers(texts: Sequence[str | None]) -> list[Any]:
    """Return a CSV file's labels as numbers where all are written as such: 7 or 7.0, but not 007 or 1e1."""
    written = [text and text.strip() for text in texts]
    if not all(_NUMBER.fullmatch(text) for text in written if text is not None):
        return list(texts)
    return [text and (float(text) if _FRACTION.search(text) else int(text.split(".")[0])) for text in written]


def _whole_number(value: Any, where: str) -> int:
    """Return a label as an integer; columns with empty fields may hold whole numbers as floats."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if is_number and float(value).is_integer():
        return int(value)  # not of the float, which is inexact above 2⁵³
    raise UserError(where, str(value), "whole numbers alone, or texts alone")


def _names_of_schema(path: Path, column: str) -> tuple[str, ...]:
    """Return the class names in the schema that Hugging Face writes into a parquet file, else ()."""
    if path.suffix.lower() != ".parquet":
        return ()
    import pyarrow.parquet as pq

    with readable_table(path):
        metadata: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
        schema = json.loads(metadata.get(b"huggingface", b"{}"))
        feature = schema.get("info", {}).get("features", {}).get(column, {})
        return tuple(feature.get("names", ()))


def _parts(path: Path, frame: "pd.DataFrame") -> list[str]:
    """Return the part of every row."""
    column = next((name for name in frame.columns if str(name).strip().lower() == SPLIT_COLUMN), None)
    if column is None:
        return ["train"] * len(frame)
    parts = []
    for row, value in enumerate(column_values(path, frame, "path", column), start=1):
        part = part_name(str(value))
        if part is None:
            raise UserError(f"{path}, row {row}, column {column}", repr(value), ", ".join(PART_NAMES))
        parts.append(part)
    return parts
