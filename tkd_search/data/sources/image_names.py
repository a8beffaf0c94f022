"""Which files of a folder are images, by their names."""

import os
from collections import Counter
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
) | {".avif", ".jp2", ".j2k"}
"""Suffixes of files that are read, in lower case."""

_UNREAD_SUFFIXES = frozenset((".heic", ".heif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw"))
_COPIES = frozenset(("@eadir", "__macosx", "#recycle", "$recycle.bin"))
"""Folders in which systems keep thumbnails, attributes or deleted files, in lower case."""


def is_image(name: str) -> bool:
    """Return whether a file of this name is read as an image; hidden files are not."""
    return not name.startswith(".") and _suffix(name) in IMAGE_SUFFIXES


def is_skipped_folder(name: str) -> bool:
    """Return whether a folder of this name is left out: hidden, or made by a system."""
    return name.startswith(".") or name.lower() in _COPIES


def image_files(folder: Path, left_out: Counter[str]) -> list[str]:
    """Return the sorted image files below ``folder``, relative to it.

    Links to folders are followed; a folder that several links lead to is read once, so that a cycle ends.

    Args:
        folder: searched with its subfolders, without hidden ones.
        left_out: counts images of formats that cannot be read by their suffix, such as ``.heic``, and files
            in the folders of systems by the folder's name.
    """
    found = []
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            if name.lower() in _COPIES:
                left_out[name] += sum(len(part) for *_, part in os.walk(path))
            elif not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        left_out.update(_suffix(name) for name in files if _suffix(name) in _UNREAD_SUFFIXES)
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in files if is_image(name)]
    return sorted(found)


def left_out_note(left_out: Counter[str]) -> tuple[str, ...]:
    """Return a note on the files that :func:`image_files` left out; none without any."""
    texts = [
        f"{count:,} {name} files" if name.startswith(".") else f"{count:,} files in {name}/"
        for name, count in sorted(left_out.items())
        if count
    ]
    return (f"data: left out {', '.join(texts)}",) if texts else ()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
