"""Accuracy of a classifier, and preparation of a copied student for evaluation."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tkd_search.distill.interfaces import channels_last, logits_of


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the accuracy in [0, 1] over batches of (normalised images [B, C, H, W], labels [B]).

    The accuracy is NaN without batches. The model runs in eval mode on the images' device; its mode is
    restored.
    """
    training = model.training
    model.eval()
    correct, rows = 0, 0
    for images, labels in batches:
        predicted = logits_of(model(channels_last(images))).argmax(-1)
        correct += int((predicted == labels.to(predicted.device)).sum())
        rows += len(labels)
    model.train(training)
    return correct / rows if rows else float("nan")


def release(model: nn.Module) -> None:
    """Give parameters memory of their own and remove gradients, so that no training changes the model."""
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(False)


def normalisations(model: nn.Module) -> Iterator[nn.Module]:
    """Return the batch normalisations of a model that track running statistics."""
    return (m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Compute the running statistics of batch normalisations from images, for the current weights.

    Averaged weights never ran in training, so running statistics from training do not fit them. All other
    modules (dropout, stochastic depth) are in eval mode, and so is the model afterwards.
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
