"""Data, big model, bank and distilled students of the benchmarks of number formats."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from tkd_search.config.sections import TrialSettings
from tkd_search.data import AugmentedViews, DataBundle, fixed_views, plain_batches, resolved_augmentation
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.networks import student_for
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings, compute_bank
from tkd_search.distill.features.bank import Bank
from tkd_search.formats import Format
from tkd_search.models import Student, build_big_model, build_student, cut_student
from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings
from tkd_search.models.weights import save_weights

CALIBRATION_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What every student is taught from: data, the settings they were read by, F and its bank."""

    settings: DataSettings
    data: DataBundle
    big_model: nn.Module
    bank: Bank

    def student(self, settings: StudentSettings, seed: int) -> Student:
        """Return an untrained student."""
        torch.manual_seed(seed)
        data = self.data
        return build_student(settings, classes=data.num_classes, channels=data.channels, size=data.size)

    def calibration(self) -> Iterator[Tensor]:
        """Yield training images without augmentation, for the ranges of activations."""
        return calibration_images(self.settings, self.data)


def calibration_images(settings: DataSettings, data: DataBundle) -> Iterator[Tensor]:
    """Yield training images without augmentation, for the ranges of activations."""
    images = training_views(settings, data, 1, augment="none")
    chosen = torch.linspace(0, len(images) - 1, min(CALIBRATION_IMAGES, len(images))).long()
    for part in chosen.split(64):
        yield images.batch(part, torch.zeros_like(part))


def training_views(
    settings: DataSettings,
    data: DataBundle,
    views: int,
    augment: str | None = None,
    images: int | None = None,
) -> AugmentedViews:
    """Return training images, the first ``images`` of them, in fixed views; 0 views are drawn afresh."""
    return AugmentedViews(
        data.train if images is None else data.train.subset(torch.arange(images)),
        mean=data.mean,
        std=data.std,
        views=views,
        augment=augment or resolved_augmentation(settings),
        randaugment=settings.randaugment if augment is None else 0,
        erasing=settings.erasing if augment is None else 0.0,
        seed=0,
        device="cpu",
    )


def lesson(
    settings: DataSettings,
    data: DataBundle,
    big: BigModelSettings,
    store: Path | None = None,
    bank: BankSettings | None = None,
) -> Lesson:
    """Load or train F on the training images and compute its bank.

    Args:
        settings: of the data.
        data: the data set.
        big: F; its ``epochs``, ``batch_size`` and ``lr`` count where it has no ``weights``.
        store: where the weights of a trained F are kept; none are written where None.
        bank: settings of the bank.
    """
    model = big_model(settings, data, big, store)
    views = training_views(settings, data, fixed_views(settings))
    made = compute_bank([model], views, bank or BankSettings())
    return Lesson(settings=settings, data=data, big_model=model, bank=made)


def big_model(
    settings: DataSettings, data: DataBundle, big: BigModelSettings, store: Path | None = None
) -> Student:
    """Load or train F on the training images; arguments as for :func:`lesson`."""
    torch.manual_seed(0)
    model = build_big_model(big, classes=data.num_classes, channels=data.channels, size=data.size)
    if big.weights is None:
        model = _trained(model, settings, data, big)
        if store is not None:
            save_weights(model.model, store)
    return model.eval().requires_grad_(False)


def _trained(model: Student, settings: DataSettings, data: DataBundle, big: BigModelSettings) -> Student:
    batch = min(big.batch_size, len(data.train))
    train = TrainSettings(epochs=big.epochs, batch_size=batch, lr=big.lr, schedule="one_cycle")
    views = training_views(settings, data, 0)
    return run(
        Distiller(model, views, MethodSettings(name="ce"), train, seed=0, class_count=data.num_classes)
    )


def untrained(settings: TrialSettings, big_model: nn.Module, data: DataBundle, seed: int) -> Student:
    """Return a student before its first step: cut from F, or with random weights.

    Args:
        settings: of the student and of F.
        big_model: F, trained.
        data: the data set.
        seed: of its random weights and channels.
    """
    torch.manual_seed(seed)
    if settings.student.name != CUT:
        return student_for(settings.student, settings.big_models[0], data)
    student, _ = cut_student(
        settings.student,
        cast(Student, big_model),
        settings.big_models[0],
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        batches=plain_batches(data.train.evenly(2048), mean=data.mean, std=data.std, batch_size=128),
        seed=seed,
        given=data.input,
    )
    return student


def run(distiller: Distiller) -> Student:
    """Train to the full budget and return the trained network in eval mode."""
    while distiller.epoch < distiller.train.epochs:
        distiller.run_epoch()
    return cast(Student, distiller.eval_student())


def distilled(
    taught: Lesson,
    student: StudentSettings,
    method: MethodSettings,
    train: TrainSettings,
    *,
    format: Format,
    seed: int,
) -> nn.Module:
    """Return a student's plain network, trained from the bank for the format and in eval mode."""
    trained = run(
        Distiller(
            taught.student(student, seed),
            training_views(taught.settings, taught.data, taught.bank.views),
            method,
            train,
            seed=seed,
            bank=taught.bank,
            class_count=taught.data.num_classes,
            format=format,
        )
    )
    return trained.model
