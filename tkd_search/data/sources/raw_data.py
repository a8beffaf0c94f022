"""What a reader found, before it is split, limited and resized."""

from dataclasses import dataclass

from tkd_search.data.bundle import Split


@dataclass(frozen=True, kw_only=True)
class RawData:
    """The parts a data set comes in; what is missing is held out of ``train`` later."""

    train: Split
    classes: tuple[str, ...]
    validation: Split | None = None
    test: Split | None = None
