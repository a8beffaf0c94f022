"""Folders of image files: ``train/<class>/*`` with optional ``val/`` and ``test/``, and TinyImageNet."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.class_names import PART_NAMES, class_name, part_name
from tkd_search.data.sources.image_names import (
    IMAGE_SUFFIXES,
    image_files,
    is_image,
    is_skipped_folder,
    left_out_note,
)
from tkd_search.data.sources.listed_images import Listing, load_listed
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError, did_you_mean, printable


def read_image_folder(root: Path, settings: DataSettings) -> RawData:
    """Read ``root/train/<class>/*``, ``val/`` as validation and ``test/`` as test where they exist.

    Without ``train/`` the class folders are those in ``root``. Subfolders of a class folder are included, and
    links followed. Folders with equal :func:`~tkd_search.data.sources.class_names.class_name` are one class.

    Raises:
        UserError: no classes, an empty or an unknown class, images of different sizes without ``data.size``,
            a damaged image, unlabelled images among the class folders, two folders of one part, or a part
            beside class folders.
    """
    left_out = Counter[str]()
    given = _part_folders(root)
    folder = given.pop("train", ".")
    if settings.unlabelled and _is_within_a_class(Path(settings.unlabelled), root / folder):
        allowed = f"a folder outside the classes in {root / folder}"
        raise UserError(
            "data.unlabelled", settings.unlabelled, allowed, "move it, or the classes into train/"
        )
    if folder == ".":
        _refuse_parts_beside_classes(root, given)
        given = {}
    classes = tuple(_class_folders(root / folder))
    parts = {"train": _listing(root, folder, classes, left_out, required=True)}
    parts |= {part: _listing(root, name, classes, left_out) for part, name in given.items()}
    raw = _noted(load_listed(root, parts, classes, settings), left_out)
    return replace(raw, notes=(*_unread_note(root, folder, given, settings), *raw.notes))


def _is_within_a_class(unlabelled: Path, classes: Path) -> bool:
    """Return whether a folder is a class folder or lies in one."""
    place, classes = unlabelled.expanduser().resolve(), classes.resolve()
    if not place.is_dir() or classes not in place.parents:
        return False
    return not is_skipped_folder(place.relative_to(classes).parts[0])


def is_image_folder(path: Path) -> bool:
    """Return whether ``train/`` has a folder in it, or at least two folders in ``path`` have images."""
    train = _part_folders(path).get("train")
    if train is not None:
        return bool(_folders(path / train))
    return sum(_images(path / name) > 0 for name in _folders(path)) >= 2


def _folders(place: Path) -> list[str]:
    """Return the sorted names of the folders in a place that may be read; none where it cannot be read."""
    try:
        with os.scandir(place) as found:
            names = [entry.name for entry in found if entry.is_dir()]
        return sorted(name for name in names if not is_skipped_folder(name))
    except OSError:
        return []


def _images(place: Path) -> int:
    """Return the number of images in a folder, without its subfolders: it may be a whole home by mistake."""
    try:
        with os.scandir(place) as found:
            return sum(is_image(entry.name) and entry.is_file() for entry in found)
    except OSError:
        return 0


def _part_folders(root: Path) -> dict[str, str]:
    """Return part → name of its folder in ``root``; names that are not quite a part's need class folders.

    Raises:
        UserError: two folders of one part.
    """
    found: dict[str, str] = {}
    for name in _folders(root):
        part = part_name(name)
        if part is None or not (name in PART_NAMES or _folders(root / name)):
            continue
        if part in found:
            both = f"{found[part]}/ and {name}/"
            raise UserError(str(root), both, f"one folder of {part} images", "merge them, or rename one")
        found[part] = name
    return found


def _refuse_parts_beside_classes(root: Path, parts: Mapping[str, str]) -> None:
    for name in parts.values():
        if _folders(root / name):
            raise UserError(
                str(root / name),
                "class folders of a part beside class folders",
                "train/<class>/* beside it",
                f"move the other folders of {root} into {root / 'train'}",
            )


def _unread_note(root: Path, train: str, parts: Mapping[str, str], settings: DataSettings) -> tuple[str, ...]:
    """Return a note on images outside class folders and folders of images beside ``train/``, none without."""
    read = [train, *parts.values()]
    counts = [(name, _images(root / name)) for name in read]
    unread = [
        f"{count:,} images of {root / name} outside its class folders" for name, count in counts if count
    ]
    unlabelled = Path(settings.unlabelled or root).expanduser().resolve()
    for name in _folders(root) if train != "." else ():
        place = root / name
        other = name not in read and not unlabelled.is_relative_to(place.resolve())
        if other and (_images(place) or any(_images(place / inner) for inner in _folders(place))):
            unread.append(f"images in {place}")
    return (printable(f"data: not read: {', '.join(unread)}"),) if unread else ()


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


def _class_folders(part: Path) -> dict[str, list[str]]:
    """Return class → names of its folders, in text order.

    Raises:
        UserError: no folder.
    """
    found: dict[str, list[str]] = {}
    for name in _folders(part):
        found.setdefault(class_name(name), []).append(name)
    if not found:
        raise UserError(str(part), "no folder in it", "a folder of images for every class")
    return dict(sorted(found.items()))


def _listing(
    root: Path, part: str, classes: Sequence[str], left_out: Counter[str], required: bool = False
) -> Listing:
    """Return the files of one part; with ``required`` every class must have at least one.

    Raises:
        UserError: an unknown class, or no images.
    """
    unknown = [name for name in _class_folders(root / part) if name not in classes]
    if unknown:
        raise UserError(
            str(root / part / unknown[0]),
            "a class that train/ does not have",
            f"one of the {len(classes)} classes of train/",
            "for TinyImageNet as published: --set data.name=tinyimagenet"
            if is_tiny_imagenet(root)
            else did_you_mean(unknown[0], classes),
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
    folders = _class_folders(root / part)
    return [
        (os.path.normpath(f"{part}/{folder}/{file}"), label)
        for label, name in enumerate(classes)
        for folder in folders.get(name, ())
        for file in image_files(root / part / folder, left_out)
    ]
