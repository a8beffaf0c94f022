"""Metrics of a classifier, and preparation of a copied student for evaluation."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tkd_search.distill.interfaces import channels_last, logits_of
from tkd_search.distill.method_settings import MetricName


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], metric: MetricName = "accuracy"
) -> float:
    """Return a metric in [0, 1] over batches of (normalised images [B, C, H, W], labels [B]).

    The metric is NaN without batches. The model runs in eval mode on the images' device, and its mode is
    restored.
    """
    counts = list(counts_of(model, batches))
    return figure(torch.stack(counts).sum(0) if counts else torch.zeros(3, 1), metric)


@torch.no_grad()
def counts_of(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Yield the :func:`class_counts` of every batch; see :func:`evaluate`."""
    training = model.training
    model.eval()
    for images, labels in batches:
        yield class_counts(logits_of(model(channels_last(images))), labels)
    model.train(training)


def class_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Return per class how many images [B] were recognised, have its label, and were predicted as it.

    The counts, int64 [3, c], of several batches or workers add up.
    """
    predicted, classes = logits.argmax(-1), logits.shape[-1]
    labels = labels.to(predicted.device)
    images = (labels[predicted == labels], labels, predicted)
    return torch.stack([one.bincount(minlength=classes) for one in images])


def figure(counts: Tensor, metric: MetricName) -> float:
    """Return a metric in [0, 1] from the counts [3, c] of :func:`class_counts`; NaN without images.

    ``balanced_accuracy`` is the mean recall of the classes that have images; ``macro_f1`` the mean F1 of the
    classes that have images or are predicted, as in scikit-learn.
    """
    right, labelled, predicted = counts.cpu().double()
    if metric == "accuracy":
        return float(right.sum() / labelled.sum())
    if metric == "balanced_accuracy":
        return float((right / labelled)[labelled > 0].mean())
    total = labelled + predicted
    return float((2 * right / total)[total > 0].mean())


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
