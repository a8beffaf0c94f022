"""The search that a user would write: Optuna proposes, a plain loop distils from the live big model.

Students, data and files are those of the experiment, so that only the search and the training differ. The
formats are given to it: a user would have to write the rounding to int4 as well. Weight decay is that of
``configs/digits.yaml``.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from optuna.distributions import BaseDistribution
from torch import Tensor

from benchmarks.formats.training import calibration_images, training_views
from benchmarks.simulator.sizes import Shape
from tkd_search.config.experiment_file import Config
from tkd_search.data import AugmentedViews, load_data, plain_batches
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.export.shipping import calibrated, write_files
from tkd_search.models import Student, build_big_model, build_student

SEARCHED = ("student.width", "student.format", "method.lam", "method.tau", "training.lr")
"""The leaves that a plain search would have; their ranges are those of the experiment."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images [B, C, H, W], logits [B, c] and labels [B] → the loss."""


def space(config: Config) -> dict[str, BaseDistribution]:
    """Return the searched leaves with the experiment's ranges, as Optuna's distributions."""
    leaves = config.space.to_optuna()
    return {key: leaves[key] for key in SEARCHED}


class ByHand:
    """Data and big model of an experiment, and students trained from them in this process."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self.data = data = load_data(config.settings().data)
        self._views = training_views(config.settings().data, data, 0)
        self._shape = Shape(classes=data.num_classes, channels=data.channels, size=data.size)

    def train_big_model(self) -> Student:
        """Train the big model on the labels, with the experiment's epochs, batches and rate."""
        settings = self.config.settings().big_models[0]
        torch.manual_seed(self.seed)
        model = build_big_model(settings, **self._shape)
        _train(model, self._views, settings.epochs, settings.batch_size, settings.lr, _label_loss)
        return model.eval().requires_grad_(False)

    def load_big_model(self, file: Path) -> Student:
        """Return the big model with the state that ``train_big_model`` gave, read from a file."""
        model = build_big_model(self.config.settings().big_models[0], **self._shape)
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval().requires_grad_(False)

    def student(self, big_model: Student, chosen: dict[str, Any]) -> tuple[int, float]:
        """Distil one student and return the bytes and the validation accuracy of its files."""
        settings, data = self.config.settings(chosen), self.data
        torch.manual_seed(self.seed)
        student = build_student(settings.student, **self._shape)
        loss = partial(_kd_loss, big_model, settings.method.lam, settings.method.tau)
        train = settings.training
        _train(student, self._views, train.epochs, train.batch_size, train.lr, loss)
        images = calibration_images(settings.data, data)
        network = calibrated(student.eval().model, settings.student.format, images)
        shape = (data.channels, data.size, data.size)
        with tempfile.TemporaryDirectory() as folder:
            onnx = write_files(network, settings.student.format, shape, Path(folder))
            size = (Path(folder) / "model.safetensors").stat().st_size
            return size, evaluate(onnx, plain_batches(data.validation, mean=data.mean, std=data.std))


def _train(model: Student, views: AugmentedViews, epochs: int, batch: int, lr: float, loss: Loss) -> None:
    """Train with AdamW under a one-cycle schedule on fresh augmented views."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    steps = len(views) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(views))[: steps * batch].split(batch):
            images = views.batch(rows, torch.full_like(rows, epoch + 1))
            optimizer.zero_grad()
            loss(images, model(images).logits, views.labels[rows]).backward()
            optimizer.step()
            schedule.step()


def _label_loss(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def _kd_loss(
    big_model: Student, lam: float, tau: float, images: Tensor, logits: Tensor, labels: Tensor
) -> Tensor:
    """Return Hinton's loss: (1 − λ) CE + λ τ² KL(big model ‖ student)."""
    with torch.no_grad():
        teacher = F.log_softmax(big_model(images).logits / tau, 1)
    soft = F.kl_div(F.log_softmax(logits / tau, 1), teacher, reduction="batchmean", log_target=True)
    return (1 - lam) * F.cross_entropy(logits, labels) + lam * tau**2 * soft
