"""Data, banks and big models that jobs share: mapped or built once per worker process."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from tkd_search.config.sections import TrialSettings
from tkd_search.data import AugmentedViews, DataBundle, Split, plain_batches, resolved_augmentation
from tkd_search.data.bank_files import load_bank
from tkd_search.data.networks import big_model_for
from tkd_search.data.prepared_files import load_prepared
from tkd_search.distill.features.bank import Bank
from tkd_search.models import Student
from tkd_search.models.image_input import big_model_input
from tkd_search.models.model_settings import BigModelSettings
from tkd_search.models.weights import load_weights, read_state
from tkd_search.seeds import child_seed
from tkd_search.storage import remote_folders

EVAL_BATCH = 512
"""Most images per batch of an evaluation."""

_EVAL_BYTES = 1 << 26
"""Most bytes of a batch of an evaluation as float32; images of up to 104 pixels fill ``EVAL_BATCH``."""


def views_of(data: DataBundle, settings: TrialSettings, *, views: int, device: str) -> AugmentedViews:
    """Return the augmented training images; with ``views`` = 0 they are drawn anew in every epoch."""
    return AugmentedViews(
        data.train,
        mean=data.mean,
        std=data.std,
        views=views,
        augment=resolved_augmentation(settings.data),
        randaugment=settings.data.randaugment,
        erasing=settings.data.erasing,
        seed=child_seed(settings.seed, "views"),
        device=device,
    )


def batches_of(
    data: DataBundle, split: Split, device: str, size: int | None = None, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return a split's images and labels in batches, or a part (number, count) of these, not augmented."""
    if size is None:
        size = min(EVAL_BATCH, max(16, _EVAL_BYTES // (4 * data.channels * data.size**2)))
    return plain_batches(split, mean=data.mean, std=data.std, batch_size=size, device=device, part=part)


@lru_cache(maxsize=2)
def data_at(place: str) -> DataBundle:
    """Return the data set stored at a place, mapped."""
    return load_prepared(remote_folders.fetch_folder(place))


@lru_cache(maxsize=2)
def bank_at(place: str) -> Bank:
    """Return the bank stored at a place, mapped."""
    return load_bank(remote_folders.fetch_folder(place))


@lru_cache(maxsize=4)
def weights_at(place: str) -> dict[str, Tensor]:
    """Return the weights stored at a place, by name."""
    return read_state(remote_folders.fetch_folder(place) / "model.safetensors", "student.weights")


def big_models_at(
    models: Sequence[BigModelSettings], data: str, places: Sequence[str], device: str
) -> tuple[Student, ...]:
    """Return every big model with its stored weights, frozen in eval mode on the device.

    Args:
        models: settings of each big model.
        data: place of the data set.
        places: place of each big model's weights.
        device: torch device name.
    """
    texts = tuple(json.dumps(asdict(model), sort_keys=True) for model in models)  # settings are not hashable
    return _big_models_at(texts, data, tuple(places), device)


def stored_big_model(
    settings: BigModelSettings, place: str, data: DataBundle
) -> tuple[BigModelSettings, Path]:
    """Return a big model's settings for this node, and the file of its weights.

    The stored weights replace those that the settings name, which this node may not have. ``weights`` stays
    set, because it decides the stem, and so does the normalisation that the named weights had.
    """
    file = remote_folders.fetch_folder(place) / "model.safetensors"
    if settings.weights is None:
        return settings, file
    own = big_model_input(settings, data.input)
    return replace(settings, weights=str(file), mean=own.mean, std=own.std), file


@lru_cache(maxsize=2)
def _big_models_at(
    models: tuple[str, ...], data_place: str, places: tuple[str, ...], device: str
) -> tuple[Student, ...]:
    data, built = data_at(data_place), []
    for text, place in zip(models, places, strict=True):
        settings, file = stored_big_model(BigModelSettings(**json.loads(text)), place, data)
        model, _ = big_model_for(settings, data)
        if settings.weights is None:
            load_weights(model.model, file)
        built.append(model.eval().to(device))
    return tuple(built)
