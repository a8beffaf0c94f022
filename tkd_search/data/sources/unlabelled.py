"""Finds the images without labels that ``data.unlabelled`` names: a folder of any depth, or a table."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tkd_search import storage
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.image_names import image_files, left_out_note
from tkd_search.data.sources.table_images import TABLE_SUFFIXES, frame_images, is_table, read_frame
from tkd_search.errors import UserError
from tkd_search.storage import remote_folders


@dataclass(frozen=True)
class UnlabelledFiles:
    """Image files, relative to the root that was asked for if they are copies in the cache, else absolute.

    ``unusable`` are 'place: reason' of rows of a table without an image; ``notes`` are lines for the user.
    """

    names: tuple[str, ...]
    unusable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def unlabelled_files(settings: DataSettings, root: Path) -> UnlabelledFiles:
    """Return the image files of ``data.unlabelled``, which must be set.

    Those in the cache are relative to ``root``, the others absolute.

    Raises:
        UserError: it is neither a folder nor a table, or has no images.
    """
    path = _local(str(settings.unlabelled))
    left_out = Counter[str]()
    if is_table(path):
        folder, files = frame_images(path, read_frame(path, settings.image_column), settings.image_column)
    elif path.is_dir():
        folder, files = path, list(image_files(path, left_out))
    else:
        state = "not a folder or a table" if path.exists() else "nothing there"
        raise UserError(
            "data.unlabelled", f"{path} ({state})", "a folder of images, or a .csv or .parquet file"
        )
    way = folder.absolute()
    if remote_folders.origin(folder):  # each node has its own copy, at the same place below its cache
        # Both real: the system resolves links in the root before it goes up from there.
        way = Path(os.path.relpath(folder.resolve(), root.resolve()))
    names = tuple(str(way / file) for file in files if file is not None)
    if not names:
        raise UserError("data.unlabelled", f"{path}, without images", "at least one image")
    rows = [f"{path}, row {row}: no image" for row, file in enumerate(files, start=1) if file is None]
    return UnlabelledFiles(names, tuple(rows), left_out_note(left_out))


def _local(place: str) -> Path:
    """Return the path on this machine; folders on object storage are copied into the cache."""
    if not storage.is_remote(place):
        return Path(place).expanduser()
    if storage.last_name(place).lower().endswith(TABLE_SUFFIXES):
        return remote_folders.fetch_file(place)
    return remote_folders.fetch_tree(place)
