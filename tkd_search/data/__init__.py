"""Data sets: reading, splits, deterministic augmented views, and the bank on disk."""

from tkd_search.data.bundle import DataBundle, ImageStore, Split
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.load_data import fixed_views, load_data, resolved_augmentation
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
