"""Data as a reader returns it, before it is split, limited and resized."""

from dataclasses import dataclass

from tkd_search.data.bundle import Split


@dataclass(frozen=True, kw_only=True)
class RawData:
    """The parts of a data set; a missing part is later held out of ``train``.

    ``unlabelled`` are training images with label ``UNLABELLED``, of the size and planes of ``train``.
    ``notes`` are lines for the user on how the data were read.
    """

    train: Split
    classes: tuple[str, ...]
    validation: Split | None = None
    test: Split | None = None
    unlabelled: Split | None = None
    notes: tuple[str, ...] = ()
