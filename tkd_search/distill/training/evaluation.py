"""Accuracy of a classifier, and copies of a student in training that are fit to be evaluated."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import channels_last, logits_of

_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share in [0, 1] of rows whose largest logit [B, c] is that of their label [B]."""
    return (logits.argmax(-1) == labels).double().mean().item()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Accuracy in [0, 1] over batches of (normalised images [B, C, H, W], labels [B]); NaN without any.

    The model runs in eval mode on the images' device; its mode is restored.
    """
    training = model.training
    model.eval()
    right, rows = 0, 0
    for images, labels in batches:
        predicted = logits_of(model(channels_last(images))).argmax(-1)
        right += int((predicted == labels.to(predicted.device)).sum())
        rows += len(labels)
    model.train(training)
    return right / rows if rows else float("nan")


def release(model: nn.Module) -> None:
    """Give parameters memory of their own, without gradients: nothing ties the model to a training."""
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(False)


def normalisations(model: nn.Module) -> Iterator[nn.Module]:
    """The batch normalisations of a model that keep running statistics."""
    return (m for m in model.modules() if isinstance(m, _NORMALISATIONS) and m.track_running_stats)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of batch normalisations from images, for the weights as they are.

    Averaged weights were never run in training, so the statistics of the weights they average do not
    fit. All else (dropout, stochastic depth) is in eval mode, and so is the model afterwards.
    """
    model.eval()
    found = list(normalisations(model))
    if not found:
        return
    momenta = [m.momentum for m in found]
    for module in found:
        module.reset_running_stats()  # type: ignore[operator]
        module.momentum = None  # type: ignore[assignment]
        module.train()
    for images in batches:
        model(channels_last(images))
    for module, momentum in zip(found, momenta, strict=True):
        module.momentum = momentum
        module.eval()
