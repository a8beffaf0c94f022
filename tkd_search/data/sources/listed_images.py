"""Images of a source that lists files with labels: class folders, TinyImageNet, tables.

Unlabelled images, which any source may have beside it, are listed and read here too.
"""

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tkd_search.data import decode
from tkd_search.data.bundle import ImageStore, Split
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.image_files import DecodedStore, FolderStore
from tkd_search.data.scan_images import broken_images_note, scan_images, scan_once
from tkd_search.data.sources.raw_data import RawData
from tkd_search.data.sources.unlabelled import UnlabelledFiles, unlabelled_files
from tkd_search.distill.interfaces import UNLABELLED
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
    """Return the images of a source that lists its files, and unlabelled ones.

    Every image is decoded once here, which finds the broken ones and hashes the pixels. The images are in
    memory where all of them fit. Beyond ``data.memory_budget_mb`` they are kept in a file of the machine's
    cache, and beyond ``data.disk_budget_gb`` they are streamed: decoded again whenever they are needed.

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
    more = UnlabelledFiles(()) if settings.unlabelled is None else unlabelled_files(settings, root)
    if more.names:
        parts = {**parts, "unlabelled": [(name, UNLABELLED) for name in more.names]}
    size, channels = _shape(root, parts, settings)
    fits = sum(map(len, parts.values())) * channels * size**2 <= settings.memory_budget_mb * 2**20
    splits = {}
    broken = {False: list(unusable), True: list(more.unusable)}
    totals = {unlabelled: len(found) for unlabelled, found in broken.items()}
    # Those on the disk share one file, so that unlabelled images can follow the training images.
    for group in [{part: listing} for part, listing in parts.items()] if fits else [parts]:
        found, broken_here = _read(root, group, size, channels, fits, settings)
        splits.update(found)
        for part, reasons in broken_here.items():
            broken[part == "unlabelled"] += reasons
            totals[part == "unlabelled"] += len(group[part])
    where = f"data.path = {settings.path}"
    if settings.unlabelled is not None:
        where += f", data.unlabelled = {settings.unlabelled}"
    return RawData(
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        classes=tuple(map(printable, classes)),
        unlabelled=splits.get("unlabelled"),
        notes=(
            *more.notes,
            *(  # Apart, because F learns from the labelled ones alone.
                note
                for unlabelled, reasons in broken.items()
                for note in broken_images_note(reasons, totals[unlabelled], settings.on_error, where)
            ),
        ),
    )


def with_unlabelled(raw: RawData, settings: DataSettings) -> RawData:
    """Return a set that is held in memory with the images of ``data.unlabelled``, in memory too.

    Raises:
        UserError: they exceed the memory budget, are broken, or have another size without ``data.size``.
    """
    assert isinstance(raw.train.images, Tensor)
    root = Path.cwd()
    found = unlabelled_files(settings, root)
    listing = [(name, UNLABELLED) for name in found.names]
    channels, native = raw.train.images.shape[1:3]
    _check_sides({(native, native)} | _sides(_headers(root, listing, settings)), settings)
    size = settings.size or native
    needed = len(listing) * channels * size**2 / 2**20
    if needed > settings.memory_budget_mb:
        raise UserError(
            "data.unlabelled",
            f"{len(listing):,} images, {needed:,.0f} MB beside {settings.name}, which is held in memory",
            f"at most data.memory_budget_mb = {settings.memory_budget_mb}",
            "raise it, or use class folders (data.name: imagefolder), which are kept on the disk",
        )
    splits, broken_here = _read(root, {"unlabelled": listing}, size, channels, True, settings)
    broken = [*found.unusable, *broken_here["unlabelled"]]
    total = len(found.unusable) + len(listing)
    where = f"data.unlabelled = {settings.unlabelled}"
    notes = (*raw.notes, *found.notes, *broken_images_note(broken, total, settings.on_error, where))
    return replace(raw, unlabelled=splits["unlabelled"], notes=notes)


def _read(
    root: Path, parts: Mapping[str, Listing], size: int, channels: int, keep: bool, settings: DataSettings
) -> tuple[dict[str, Split], dict[str, list[str]]]:
    """Return the readable images of each part, in memory if ``keep``, and 'path: reason' of its others."""
    listing = [entry for of_part in parts.values() for entry in of_part]
    store = FolderStore(str(root), tuple(name for name, _ in listing), size, channels)
    paths = [store.path(position) for position in range(len(store))]
    scanned = (
        scan_images(paths, size, channels, keep=True)
        if keep
        else scan_once(paths, size, channels, disk_budget_gb=settings.disk_budget_gb)
    )
    images: ImageStore = store if scanned.images is None else scanned.images
    if scanned.file is not None:
        images = DecodedStore(scanned.file, torch.arange(len(store)), store)
    labels = torch.tensor([label for _, label in listing], dtype=torch.int64)
    whole, start = Split(images, labels, store.files, scanned.content), 0
    splits, broken = {}, {}
    for part, of_part in parts.items():
        end = start + len(of_part)
        positions = range(start, end)
        broken[part] = [scanned.broken[position] for position in positions if position in scanned.broken]
        readable = [position for position in positions if position not in scanned.broken]
        complete = len(readable) == len(listing)
        splits[part] = whole if complete else whole.subset(torch.tensor(readable, dtype=torch.int64))
        start = end
    return splits, broken


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


Header = tuple[int, int, bool]
"""Width, height and whether an image is grey."""


def _headers(root: Path, listing: Listing, settings: DataSettings) -> list[Header]:
    """Return the headers of about 64 evenly spaced images.

    Raises:
        UserError: 16-bit images that hold 12-bit values.
    """
    seen, deep = [], list[int]()
    for name, _ in listing[:: max(1, len(listing) // _SHAPE_SAMPLE)]:
        with suppress(decode.DamagedImageError):  # the scan of all images counts them
            seen.append(decode.read_header(str(root / name)))
            if (brightest := decode.brightest_deep_pixel(str(root / name))) is not None:
                deep.append(brightest)
    _refuse_dark(deep, settings)
    return seen


def _shape(root: Path, parts: Mapping[str, Listing], settings: DataSettings) -> tuple[int, int]:
    """Return side and planes of the images, from settings and some headers; planes are those of ``train``.

    Raises:
        UserError: as of :func:`_headers` and :func:`_check_sides`.
    """
    labelled = _headers(root, parts["train"], settings)
    seen = labelled + _headers(root, parts.get("unlabelled", []), settings)
    if not labelled:
        return settings.size or 1, 3
    _check_sides(_sides(seen), settings)
    return settings.size or labelled[0][0], 1 if _all_grey(root, parts["train"], labelled) else 3


def _all_grey(root: Path, listing: Listing, sampled: Sequence[Header]) -> bool:
    """Return whether no training image has colours; reads all headers where the sampled ones are grey."""
    return all(grey for *_, grey in sampled) and all(_is_grey(str(root / name)) for name, _ in listing)


def _is_grey(path: str) -> bool:
    with suppress(decode.DamagedImageError):
        return decode.read_header(path)[-1]
    return True


def _sides(headers: Sequence[Header]) -> set[tuple[int, int]]:
    return {(width, height) for width, height, _ in headers}


def _check_sides(sides: Set[tuple[int, int]], settings: DataSettings) -> None:
    """Refuse images that are not square or differ in size where ``data.size`` is not set."""
    if settings.size is None and (len(sides) > 1 or any(width != height for width, height in sides)):
        shown = ", ".join(f"{width} × {height}" for width, height in sorted(sides)[:3])
        raise UserError(
            "data.size",
            f"no value, while images have {shown}{' …' if len(sides) > 3 else ''} pixels",
            "the side in pixels to scale and crop them to",
            "for instance --set data.size=64",
        )
