"""A data set by its settings."""

from collections.abc import Callable
from pathlib import Path

from tkd_search.data.assemble import assemble
from tkd_search.data.cifar import cifar_folder, cifar_looked, read_cifar
from tkd_search.data.digits import read_digits
from tkd_search.data.download import download
from tkd_search.data.folders import is_image_folder, is_tiny_imagenet, read_image_folder, read_tiny_imagenet
from tkd_search.data.mnist import mnist_folder, mnist_looked, read_mnist
from tkd_search.data.raw import RawData
from tkd_search.data.settings import DataSettings
from tkd_search.data.types import DataBundle
from tkd_search.errors import UserError

_SOURCES = {
    "mnist": "its four files train/t10k-images-idx3-ubyte and -labels-idx1-ubyte, plain or .gz",
    "cifar10": "cifar-10-python.tar.gz or cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked; or train/<class>/*, test/<class>/*",
    "cifar100": "cifar-100-python.tar.gz or cifar-100-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked; or train/<class>/*, test/<class>/*",
    "tinyimagenet": "cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked (any number of its classes)",
    "imagefolder": "train/<class>/*, and val/<class>/*, test/<class>/* where there are such parts",
}


def load_data(settings: DataSettings) -> DataBundle:
    """Read, split and measure a data set.

    Raises:
        UserError: the files are missing (where it looked, how to get them) or damaged (which one).
    """
    return assemble(_read(settings), settings)


def resolved_augmentation(settings: DataSettings) -> str:
    """What ``auto`` means for this set: none, shift or crop_flip."""
    if settings.augment != "auto":
        return settings.augment
    return "shift" if settings.name in ("digits", "mnist") else "crop_flip"


def _read(settings: DataSettings) -> RawData:
    if settings.name == "digits":
        return read_digits()
    if settings.path is None:
        raise UserError(
            "data.path",
            "nothing",
            f"the folder that holds {settings.name}",
            f"--set data.path=FOLDER; there should be {_SOURCES[settings.name]}",
        )
    path = Path(settings.path).expanduser()
    raw = _found(settings, path)
    if raw is None and settings.download:
        download(settings.name, path)
        raw = _found(settings, path)
    if raw is None:
        raise _missing(settings, path)
    return raw


def _found(settings: DataSettings, path: Path) -> RawData | None:
    """The set where one of its forms lies at ``path``."""
    if not path.is_dir():
        return None
    for look in _LOOKS[settings.name]:
        raw = look(path, settings)
        if raw is not None:
            return raw
    return None


def _mnist(path: Path, settings: DataSettings) -> RawData | None:
    folder = mnist_folder(path)
    return None if folder is None else read_mnist(folder)


def _cifar(path: Path, settings: DataSettings) -> RawData | None:
    found = cifar_folder(settings.name, path)
    return None if found is None else read_cifar(*found)


def _tiny_imagenet(path: Path, settings: DataSettings) -> RawData | None:
    for folder in (path, path / "tiny-imagenet-200"):
        if is_tiny_imagenet(folder):
            return read_tiny_imagenet(folder, settings)
    return None


def _image_folder(path: Path, settings: DataSettings) -> RawData | None:
    return read_image_folder(path, settings) if is_image_folder(path) else None


_LOOKS: dict[str, tuple[Callable[[Path, DataSettings], RawData | None], ...]] = {
    "mnist": (_mnist, _image_folder),
    "cifar10": (_cifar, _image_folder),
    "cifar100": (_cifar, _image_folder),
    "tinyimagenet": (_tiny_imagenet,),
    "imagefolder": (_image_folder,),
}


def _missing(settings: DataSettings, path: Path) -> UserError:
    looked = str(path)
    if settings.name == "mnist":
        looked = mnist_looked(path)
    elif settings.name.startswith("cifar"):
        looked = cifar_looked(settings.name, path)
    what = "no such folder" if not path.exists() else "no folder" if not path.is_dir() else "not there"
    downloads = settings.name in ("mnist", "cifar10", "cifar100")
    return UserError(
        "data.path",
        f"{path} ({what}); looked in {looked}",
        _SOURCES[settings.name],
        "or let torchvision fetch it: --set data.download=true" if downloads else "",
    )
