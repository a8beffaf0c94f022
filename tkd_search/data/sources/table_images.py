"""Images in the column of a table: paths, or encoded bytes."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search.errors import UserError
from tkd_search.storage.remote_folders import cached_folder

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".parquet")

Image = str | bytes | None
"""An image's path or its encoded bytes; None where a row has neither."""


def is_table(path: Path) -> bool:
    """Return whether ``path`` is a file that is named as a table."""
    return path.is_file() and path.suffix.lower() in TABLE_SUFFIXES


def read_frame(path: Path) -> "pd.DataFrame":
    """Return a table.

    Raises:
        UserError: it cannot be read.
    """
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path, dtype_backend="numpy_nullable")
        # A class may be called NA or null: only an empty field is missing.
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:  # errors of format are ValueErrors
        reason = " ".join(str(error).split())[:200]
        raise UserError(str(path), f"no readable table ({reason})", "a CSV or parquet file") from error


def column_values(path: Path, frame: "pd.DataFrame", key: str, column: str) -> list[Any]:
    """Return a column as plain values, None where it is empty.

    Raises:
        UserError: the table has no such column; the error names the setting ``data.<key>``.
    """
    if column not in frame.columns:
        columns = ", ".join(map(str, frame.columns))
        raise UserError(f"data.{key}", f"{column!r}, which {path} does not have", f"one of {columns}")
    found = frame[column]
    return [None if missing else value for value, missing in zip(found, found.isna(), strict=True)]


def frame_images(path: Path, frame: "pd.DataFrame", column: str) -> tuple[Path, list[str | None]]:
    """Return a root and the file of every row's image relative to it; None where a row has no image.

    An image is a path relative to the table, encoded bytes, or ``{bytes, path}`` as Hugging Face data sets
    store it. Bytes are written once as files into this machine's cache.

    Raises:
        UserError: the table has no such column.
    """
    return _files(
        path, column, [_image(value) for value in column_values(path, frame, "image_column", column)]
    )


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
