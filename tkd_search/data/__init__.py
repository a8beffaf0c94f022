"""Data sets: reading, splits, deterministic augmented views, and the bank on disk.

The names are imported on first use: the settings of an experiment are read without PyTorch.
"""

from typing import TYPE_CHECKING

from tkd_search.lazy import importer

if TYPE_CHECKING:
    from tkd_search.data.bundle import DataBundle, ImageStore, Split
    from tkd_search.data.data_settings import DataSettings
    from tkd_search.data.load_bundle import fixed_views, load_data, resolved_augmentation
    from tkd_search.data.views import AugmentedViews, plain_batches

__all__ = [
    "AugmentedViews",
    "DataBundle",
    "DataSettings",
    "ImageStore",
    "Split",
    "fixed_views",
    "load_data",
    "plain_batches",
    "resolved_augmentation",
]

__getattr__ = importer(
    __name__,
    {
        **dict.fromkeys(("DataBundle", "ImageStore", "Split"), "bundle"),
        "DataSettings": "data_settings",
        **dict.fromkeys(("fixed_views", "load_data", "resolved_augmentation"), "load_bundle"),
        **dict.fromkeys(("AugmentedViews", "plain_batches"), "views"),
    },
)
