"""Images in the column of a table: paths, or encoded bytes."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search.errors import UserError
from tkd_search.storage.remote_folders import cached_folder

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".parquet")
_NAMES_FILE, _ROWS_AT_ONCE = "names.json", 256

Image = str | bytes | None
"""An image's path or its encoded bytes; None where a row has neither."""


def is_table(path: Path) -> bool:
    """Return whether ``path`` is a file that is named as a table."""
    return path.is_file() and path.suffix.lower() in TABLE_SUFFIXES


def read_frame(path: Path, image_column: str) -> "pd.DataFrame":
    """Return a table, without the images of a parquet file, which may be larger than the memory.

    All values of a CSV file are texts: a class may be called 007.

    Raises:
        UserError: it cannot be read.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    with readable_table(path):
        if path.suffix.lower() == ".parquet":
            others = [name for name in pq.read_schema(path).names if name != image_column]
            frame = pd.read_parquet(path, columns=others, dtype_backend="numpy_nullable")
            named = [name for name in frame.index.names if name in others]
            return frame.reset_index(named) if named else frame
        # A class may be called NA or null: only an empty field is missing.
        return pd.read_csv(
            path,
            sep=_separator(path),
            index_col=False,  # else a separator at the end of every row shifts the columns
            skipinitialspace=True,
            keep_default_na=False,
            na_values=[""],
            dtype="string",
        )


@contextmanager
def readable_table(path: Path) -> Iterator[None]:
    """Convert the errors of a ``with`` block that reads a table.

    Raises:
        UserError: the block failed. Pandas and Arrow raise errors of many kinds for damaged files.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        hint = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise UserError(str(path), f"no readable table ({reason})", "a CSV or parquet file", hint) from error


def _separator(path: Path) -> str:
    """Return the character that most often separates the columns' names: spreadsheets write ``;`` or tabs."""
    with path.open(encoding="utf-8") as lines:
        return max(",;\t|", key=next(lines, "").count)


def column_values(path: Path, frame: "pd.DataFrame", key: str, column: str) -> list[Any]:
    """Return a column as plain values, None where it is empty.

    Raises:
        UserError: the table has no such column (the error names the setting ``data.<key>``), or is damaged.
    """
    if column not in frame.columns:
        raise missing_column(path, key, column, list(frame.columns))
    found = frame[column]
    with readable_table(path):  # Arrow decodes texts here
        return [None if missing else value for value, missing in zip(found, found.isna(), strict=True)]


def frame_images(path: Path, frame: "pd.DataFrame", column: str) -> tuple[Path, list[str | None]]:
    """Return a root and the file of every row's image relative to it; None where a row has no image.

    An image is a path relative to the table, encoded bytes, or ``{bytes, path}`` as Hugging Face data sets
    store it. Encoded images are written once as files into this machine's cache, a few hundred at a time.

    Raises:
        UserError: the table has no such column.
    """
    if path.suffix.lower() != ".parquet":
        values = column_values(path, frame, "image_column", column)
        return path.parent, [_relative(_image(value), path.parent) for value in values]
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    if column not in schema.names:
        raise missing_column(path, "image_column", column, schema.names)
    if pa.types.is_string(schema.field(column).type) or pa.types.is_large_string(schema.field(column).type):
        return path.parent, [_relative(image, path.parent) for image in _parquet_images(path, column)]
    state = path.stat()
    identity = f"{path.absolute()}:{state.st_size}:{state.st_mtime_ns}:{column}"

    def fill(folder: Path) -> None:
        names: list[str | None] = []
        for row, image in enumerate(_parquet_images(path, column), start=1):
            if isinstance(image, bytes):
                (folder / _row_name(row)).write_bytes(image)
                names.append(_row_name(row))
            else:
                names.append(image and str((path.parent / image).absolute()))
        (folder / _NAMES_FILE).write_text(json.dumps(names), encoding="utf-8")

    root = cached_folder(f"parquet-{hashlib.sha256(identity.encode()).hexdigest()[:16]}", fill)
    return root, json.loads((root / _NAMES_FILE).read_text(encoding="utf-8"))


def missing_column(path: Path, key: str, column: str, columns: Sequence[str]) -> UserError:
    """Return the error of a table without a column; it names the setting ``data.<key>``."""
    return UserError(
        f"data.{key}", f"{column!r}, which {path} does not have", f"one of {', '.join(map(str, columns))}"
    )


def _parquet_images(path: Path, column: str) -> Iterator[Image]:
    """Yield the images of a parquet file, of which a few hundred are in memory."""
    import pyarrow.parquet as pq

    with readable_table(path):
        for batch in pq.ParquetFile(path).iter_batches(_ROWS_AT_ONCE, columns=[column]):
            yield from (_image(value) for value in batch.column(0).to_pylist())


def _image(value: Any) -> Image:
    """Return an image from a cell: a path, bytes, or a dictionary with either."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) and value else None


def _relative(image: Image, folder: Path) -> str | None:
    """Return a path relative to the table's folder; backslashes of Windows separate folders."""
    if image is None:
        return None
    path = os.path.expanduser(str(image))
    if "\\" in path and not os.path.lexists(folder / path):
        path = path.replace("\\", "/")
    return os.path.normpath(path)


def _row_name(row: int) -> str:
    return f"row{row:08d}"
