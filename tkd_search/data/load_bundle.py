"""Reading of a data set by its settings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tkd_search import storage
from tkd_search.data.assemble import assemble
from tkd_search.data.bundle import DataBundle
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.sources.cifar import cifar_folder, cifar_places, read_cifar
from tkd_search.data.sources.digits import read_digits
from tkd_search.data.sources.download import DOWNLOADABLE, download
from tkd_search.data.sources.folders import (
    is_image_folder,
    is_tiny_imagenet,
    read_image_folder,
    read_tiny_imagenet,
)
from tkd_search.data.sources.hugging_face import read_hugging_face
from tkd_search.data.sources.listed_images import with_unlabelled
from tkd_search.data.sources.mnist import mnist_folder, mnist_places, read_mnist
from tkd_search.data.sources.raw_data import RawData
from tkd_search.data.sources.table_images import is_table
from tkd_search.data.sources.tables import read_table
from tkd_search.errors import UserError
from tkd_search.storage import remote_folders

Reader = Callable[[], RawData]

_SOURCES = {
    "mnist": "the four files train/t10k-images-idx3-ubyte and -labels-idx1-ubyte, plain or .gz",
    "cifar10": "cifar-10-python.tar.gz or cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked; or train/<class>/*, test/<class>/*",
    "cifar100": "cifar-100-python.tar.gz or cifar-100-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked; or train/<class>/*, test/<class>/*",
    "tinyimagenet": "cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked (any number of its classes)",
    "imagefolder": "train/<class>/*, and val/<class>/*, test/<class>/* where there are such parts",
    "hf": "a folder that save_to_disk of Hugging Face's datasets wrote, or a data set's name on the hub",
    "table": "a .csv or .parquet file with a column of images and one of labels",
}


def load_data(settings: DataSettings) -> DataBundle:
    """Read, split and measure a data set.

    Raises:
        UserError: files are missing (names the folders searched and the source) or damaged (names the file).
    """
    raw = _read(settings)
    if settings.unlabelled is not None and raw.unlabelled is None:
        raw = with_unlabelled(raw, settings)
    return assemble(raw, settings)


def resolved_augmentation(settings: DataSettings) -> str:
    """Return the augmentation, ``auto`` resolved for this set."""
    if settings.augment != "auto":
        return settings.augment
    return "shift" if settings.name in ("digits", "mnist") else "crop_flip"


def fixed_views(settings: DataSettings) -> int:
    """Return the number of fixed views per image: at most 1 without augmentation; 0 is any number."""
    changes = settings.randaugment or settings.erasing or resolved_augmentation(settings) != "none"
    return settings.views if changes else min(settings.views, 1)


def _read(settings: DataSettings) -> RawData:
    if settings.name == "digits":
        return read_digits()
    path = _path(settings)
    reader = _reader(settings, path)
    if reader is None and settings.download:
        download(settings.name, path)
        reader = _reader(settings, path)
    if reader is None:
        raise _missing(settings, path)
    return reader()


def _path(settings: DataSettings) -> Path:
    if settings.path is None:
        raise UserError(
            "data.path",
            "nothing",
            f"the place of {settings.name}: {_SOURCES[settings.name]}",
            "for instance --set data.path=FOLDER" + _fetch_hint(settings),
        )
    if storage.is_remote(settings.path):
        fetch = remote_folders.fetch_file if settings.name == "table" else remote_folders.fetch_tree
        return fetch(settings.path)
    return Path(settings.path).expanduser()


def _reader(settings: DataSettings, path: Path) -> Reader | None:
    """Return the reader for the form of the set found at ``path``; None where none is found."""
    if settings.name not in ("table", "hf") and not path.is_dir():
        return None
    for find in _FINDERS[settings.name]:
        reader = find(path, settings)
        if reader is not None:
            return reader
    return None


def _mnist(path: Path, settings: DataSettings) -> Reader | None:
    folder = mnist_folder(path)
    return None if folder is None else partial(read_mnist, folder)


def _cifar(path: Path, settings: DataSettings) -> Reader | None:
    found = cifar_folder(settings.name, path)
    return None if found is None else partial(read_cifar, *found)


def _tiny_imagenet(path: Path, settings: DataSettings) -> Reader | None:
    for folder in (path, path / "tiny-imagenet-200"):
        if is_tiny_imagenet(folder):
            return partial(read_tiny_imagenet, folder, settings)
    return None


def _image_folder(path: Path, settings: DataSettings) -> Reader | None:
    return partial(read_image_folder, path, settings) if is_image_folder(path) else None


def _table(path: Path, settings: DataSettings) -> Reader | None:
    return partial(read_table, path, settings) if is_table(path) else None


def _hugging_face(path: Path, settings: DataSettings) -> Reader | None:
    return partial(read_hugging_face, path, settings)


_FINDERS: dict[str, tuple[Callable[[Path, DataSettings], Reader | None], ...]] = {
    "mnist": (_mnist, _image_folder),
    "cifar10": (_cifar, _image_folder),
    "cifar100": (_cifar, _image_folder),
    "tinyimagenet": (_tiny_imagenet,),
    "imagefolder": (_image_folder,),
    "table": (_table,),
    "hf": (_hugging_face,),
}


def _fetch_hint(settings: DataSettings) -> str:
    if settings.name in DOWNLOADABLE and not settings.download:
        return ", or download it there: --set data.download=true"
    return ""


def _missing(settings: DataSettings, path: Path) -> UserError:
    searched = str(path)
    if settings.name == "mnist":
        searched = mnist_places(path)
    elif settings.name.startswith("cifar"):
        searched = cifar_places(settings.name, path)
    state = (
        "nothing there"
        if not path.exists()
        else "not a table"
        if settings.name == "table"
        else "not a folder"
        if not path.is_dir()
        else "files of the set are missing"
    )
    hint = "data.name=table" if is_table(path) else f"data.path=FOLDER{_fetch_hint(settings)}"
    return UserError(
        "data.path",
        f"{path} ({state}); searched {searched}",
        _SOURCES[settings.name],
        f"--set {hint}",
    )
