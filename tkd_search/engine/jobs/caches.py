"""What jobs of one search have in common, mapped or built once per worker process."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from tkd_search.config.experiment_file import Config, parse_config
from tkd_search.config.sections import Settings
from tkd_search.data import AugmentedViews, DataBundle, Split, plain_batches, resolved_augmentation
from tkd_search.data.bank_files import load_bank
from tkd_search.data.prepared_files import load_prepared
from tkd_search.distill.features.bank import Bank
from tkd_search.models import Student, build_big_model
from tkd_search.models.weights import load_weights
from tkd_search.seeds import child_seed
from tkd_search.storage import remote_folders

EVAL_BATCH = 512


def views_of(data: DataBundle, settings: Settings, *, views: int, device: str) -> AugmentedViews:
    """The training images as a training or a bank sees them; ``views`` 0 draws afresh each epoch."""
    return AugmentedViews(
        data.train,
        mean=data.mean,
        std=data.std,
        views=views,
        augment=resolved_augmentation(settings.data),
        seed=child_seed(settings.seed, "views"),
        device=device,
    )


def batches_of(data: DataBundle, split: Split, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """A split in batches, as it is evaluated."""
    return plain_batches(split, mean=data.mean, std=data.std, batch_size=EVAL_BATCH, device=device)


@lru_cache(maxsize=8)
def config_of(text: str) -> Config:
    """The configuration that travelled in a job."""
    return parse_config(json.loads(text))


@lru_cache(maxsize=2)
def data_at(place: str) -> DataBundle:
    """The data set stored at a place, mapped."""
    return load_prepared(remote_folders.fetch_folder(place))


@lru_cache(maxsize=2)
def bank_at(place: str) -> Bank:
    """The bank stored at a place, mapped."""
    return load_bank(remote_folders.fetch_folder(place))


@lru_cache(maxsize=2)
def big_models_at(config: str, data_folder: str, places: tuple[str, ...], device: str) -> tuple[Student, ...]:
    """Every F with its weights, frozen in eval mode on the device."""
    data = data_at(data_folder)
    models = []
    for settings, place in zip(config_of(config).settings().big_models, places, strict=True):
        file = remote_folders.fetch_folder(place) / "model.safetensors"
        given = settings.weights is not None
        # The file that was given is in the stored F already; this node may not have it, but its stem counts.
        settings = replace(settings, weights=str(file) if given else None)
        model = build_big_model(settings, classes=data.num_classes, channels=data.channels, size=data.size)
        if not given:
            load_weights(model.model, file)
        models.append(model.eval().to(device))
    return tuple(models)
