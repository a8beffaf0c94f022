"""Folders of image files: ``train/<class>/*`` with optional ``val/`` and ``test/``, and TinyImageNet."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.image_names import (
    IMAGE_SUFFIXES,
    image_files,
    is_image,
    is_skipped_folder,
    left_out_note,
)
from tkd_search.data.sources.listed_images import Listing, load_listed
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError

_VALIDATION_NAMES = ("val", "valid", "validation")


def read_image_folder(root: Path, settings: DataSettings) -> RawData:
    """Read ``root/train/<class>/*``, ``val/`` as validation and ``test/`` as test where they exist.

    Without ``train/`` the class folders are those in ``root``. Subfolders of a class folder are included, and
    links followed.

    Raises:
        UserError: no classes, an empty or an unknown class, images of different sizes without ``data.size``,
            a damaged image, unlabelled images among the class folders.
    """
    left_out = Counter[str]()
    folder = "train" if (root / "train").is_dir() else "."
    if settings.unlabelled and Path(settings.unlabelled).expanduser().resolve().parent == (
        (root / folder).resolve()
    ):
        allowed = f"a folder that is not one of the classes in {root / folder}"
        raise UserError(
            "data.unlabelled", settings.unlabelled, allowed, "move it, or the classes into train/"
        )
    classes = _class_names(root / folder)
    parts = {"train": _listing(root, folder, classes, left_out, required=True)}
    for part, names in (("validation", _VALIDATION_NAMES), ("test", ("test",))):
        given = next((name for name in names if folder != "." and (root / name).is_dir()), None)
        if given is not None:
            parts[part] = _listing(root, given, classes, left_out)
    return _noted(load_listed(root, parts, classes, settings), left_out)


def is_image_folder(path: Path) -> bool:
    """Return whether ``train/`` has a folder in it, or at least two folders in ``path`` have images."""
    if (path / "train").is_dir():
        return any(entry.is_dir() for entry in os.scandir(path / "train"))
    return sum(entry.is_dir() and _has_images(entry.path) for entry in os.scandir(path)) >= 2


def _has_images(folder: str) -> bool:
    """Return whether a folder has images, without its subfolders: the path may be a whole home by mistake."""
    try:
        return any(is_image(entry.name) for entry in os.scandir(folder))
    except OSError:
        return False


def is_tiny_imagenet(path: Path) -> bool:
    """Return whether ``path`` has TinyImageNet's layout, with any number of its classes."""
    return (path / "wnids.txt").is_file() and (path / "train").is_dir()


def read_tiny_imagenet(root: Path, settings: DataSettings) -> RawData:
    """Read TinyImageNet as published; its validation part, which has labels, becomes the test part.

    The validation images may also lie in class folders, ``val/<wnid>/``.

    Raises:
        UserError: a class, a file or an annotation is missing, or an image is damaged.
    """
    wnids = tuple((root / "wnids.txt").read_text(encoding="utf-8", errors="replace").split())
    left_out = Counter[str]()
    parts = {"train": _tiny_train(root, wnids, left_out)}
    annotations = root / "val" / "val_annotations.txt"
    if annotations.is_file():
        parts["test"] = _tiny_annotated(annotations, root, wnids)
    elif any((root / "val" / wnid).is_dir() for wnid in wnids):
        parts["test"] = _files_by_class(root, "val", wnids, left_out)
    raw = load_listed(root, parts, _tiny_names(root / "words.txt", wnids), settings)
    return _noted(raw, left_out)


def _noted(raw: RawData, left_out: Counter[str]) -> RawData:
    return replace(raw, notes=(*left_out_note(left_out), *raw.notes))


def _tiny_train(root: Path, wnids: Sequence[str], left_out: Counter[str]) -> Listing:
    listing: Listing = []
    for label, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        if not folder.is_dir():
            raise UserError(str(folder), "no such folder", "a folder for every class in wnids.txt")
        listing += [(f"train/{wnid}/images/{name}", label) for name in image_files(folder, left_out)]
    return listing


def _tiny_annotated(annotations: Path, root: Path, wnids: Sequence[str]) -> Listing:
    """Return the images of val/ by ``val_annotations.txt``, without those of classes not in ``wnids``."""
    numbers = {wnid: label for label, wnid in enumerate(wnids)}
    listing: Listing = []
    for line, text in enumerate(
        annotations.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
    ):
        fields = text.split("\t")
        if len(fields) < 2:
            raise UserError(f"{annotations}, line {line}", repr(text[:60]), "file, tab, class, tab, box")
        name = f"val/images/{fields[0]}"
        if fields[1] in numbers:
            if not (root / name).is_file():
                raise UserError(
                    f"{annotations}, line {line}", f"{name}, which does not exist", "an image that exists"
                )
            listing.append((name, numbers[fields[1]]))
    return listing


def _tiny_names(words: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return the first English name of every class; with the wnid if not unique, the wnid if missing."""
    known: dict[str, str] = {}
    if words.is_file():
        for line in words.read_text(encoding="utf-8", errors="replace").splitlines():
            wnid, _, meaning = line.partition("\t")
            known[wnid] = meaning.split(",")[0].strip()
    names = [known.get(wnid) or wnid for wnid in wnids]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    )


def _class_names(train: Path) -> tuple[str, ...]:
    names = sorted(
        entry.name for entry in os.scandir(train) if entry.is_dir() and not is_skipped_folder(entry.name)
    )
    if not names:
        raise UserError(str(train), "no folder in it", "a folder of images for every class")
    return tuple(names)


def _listing(
    root: Path, part: str, classes: Sequence[str], left_out: Counter[str], required: bool = False
) -> Listing:
    """Return the files of one part; with ``required`` every class must have at least one.

    Raises:
        UserError: an unknown class, or no images.
    """
    present = _class_names(root / part)
    unknown = [name for name in present if name not in classes]
    if unknown:
        raise UserError(
            str(root / part / unknown[0]),
            "a class that train/ does not have",
            f"one of the {len(classes)} classes of train/",
            "for TinyImageNet as published: --set data.name=tinyimagenet" if is_tiny_imagenet(root) else "",
        )
    listing = _files_by_class(root, part, classes, left_out)
    without = set(range(len(classes))) - {label for _, label in listing}
    if without and required:
        allowed = f"files named {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise UserError(str(root / part / classes[min(without)]), "no images", allowed)
    if not listing:
        raise UserError(str(root / part), "no images", "images in one folder per class")
    return listing


def _files_by_class(root: Path, part: str, classes: Sequence[str], left_out: Counter[str]) -> Listing:
    return [
        (os.path.normpath(f"{part}/{name}/{file}"), label)
        for label, name in enumerate(classes)
        for file in image_files(root / part / name, left_out)
    ]
