"""A data set by its settings."""

from tkd_search.data.assemble import assemble
from tkd_search.data.digits import read_digits
from tkd_search.data.raw import RawData
from tkd_search.data.settings import DataSettings
from tkd_search.data.types import DataBundle
from tkd_search.errors import UserError


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
    raise UserError("data.name", repr(settings.name), "digits")
