"""Images of a source that lists files with labels: class folders, TinyImageNet, tables."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from tkd_search.data import decode
from tkd_search.data.bundle import Split
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.image_files import FolderStore
from tkd_search.data.scan_images import broken_images_note, scan_images, scan_once
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError, printable

_SHAPE_SAMPLE = 64
_TWELVE_BITS = 4095

Listing = list[tuple[str, int]]
"""(file relative to the root, label) of every image."""


def load_listed(
    root: Path,
    parts: Mapping[str, Listing],
    classes: tuple[str, ...],
    settings: DataSettings,
    unusable: Sequence[str] = (),
) -> RawData:
    """Return the images of a source that lists its files: in memory where they fit, else streamed.

    Every image is decoded once here, which finds the broken ones and hashes the pixels. For streamed images
    this is kept in the cache.

    Args:
        root: folder that the files are relative to.
        parts: ``train`` and any of ``validation`` and ``test``; a listing each.
        classes: names of the labels.
        settings: size, memory budget and what to do with broken images.
        unusable: 'place: reason' of images that the source had to leave out; they count as broken.

    Raises:
        UserError: broken images that the settings do not allow, or images of different sizes without
            ``data.size``.
    """
    size, channels = _shape(root, parts["train"], settings)
    fits = sum(map(len, parts.values())) * channels * size**2 <= settings.memory_budget_mb * 2**20
    splits, broken = {}, list(unusable)
    for part, listing in parts.items():
        names = tuple(name for name, _ in listing)
        paths = [str(root / name) for name in names]
        scanned = scan_images(paths, size, channels, keep=True) if fits else scan_once(paths, size, channels)
        images = FolderStore(str(root), names, size, channels) if scanned.images is None else scanned.images
        labels = torch.tensor([label for _, label in listing], dtype=torch.int64)
        readable = [position for position in range(len(listing)) if position not in scanned.broken]
        split = Split(images, labels, names, scanned.content)
        splits[part] = split.subset(torch.tensor(readable, dtype=torch.int64)) if scanned.broken else split
        broken += scanned.broken.values()
    total = len(unusable) + sum(map(len, parts.values()))
    notes = broken_images_note(broken, total, settings.on_error, f"data.path = {settings.path}")
    return RawData(
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        classes=tuple(map(printable, classes)),
        notes=notes,
    )


def _refuse_dark(deep: Sequence[int], settings: DataSettings) -> None:
    """Refuse 16-bit images that hold 12-bit values: scaled to 8 bits, 16 grey levels would be left.

    Args:
        deep: the largest pixel of each image of more than 8 bits that was looked at.
        settings: name the data.
    """
    if deep and max(deep) <= _TWELVE_BITS:
        raise UserError(
            f"data.path = {settings.path}",
            f"16-bit images of which {len(deep)} were checked: no pixel is above {max(deep)}",
            "pixels that use the 16 bits, up to 65535, or 8-bit images",
            "multiply the pixels of 12-bit images by 16, of 10-bit images by 64",
        )


def _shape(root: Path, listing: Listing, settings: DataSettings) -> tuple[int, int]:
    """Return side and planes of the images, from settings and the headers of about 64 evenly spaced images.

    Raises:
        UserError: without ``data.size``, images that are not square or differ in size; 16-bit images that
            hold 12-bit values.
    """
    seen, deep = [], list[int]()
    for name, _ in listing[:: max(1, len(listing) // _SHAPE_SAMPLE)]:
        with suppress(decode.DamagedImageError):  # the scan of all images counts them
            seen.append(decode.read_header(str(root / name)))
            if (brightest := decode.brightest_deep_pixel(str(root / name))) is not None:
                deep.append(brightest)
    _refuse_dark(deep, settings)
    if not seen:
        return settings.size or 1, 3
    channels = 1 if all(grey for _, _, grey in seen) else 3
    sides = sorted({(width, height) for width, height, _ in seen})
    if settings.size is not None:
        return settings.size, channels
    if len(sides) > 1 or sides[0][0] != sides[0][1]:
        shown = ", ".join(f"{width} × {height}" for width, height in sides[:3])
        raise UserError(
            "data.size",
            f"no value, while the images of {root} have {shown}{' …' if len(sides) > 3 else ''} pixels",
            "the side in pixels to scale and crop them to",
            "for instance --set data.size=64",
        )
    return sides[0][0], channels
