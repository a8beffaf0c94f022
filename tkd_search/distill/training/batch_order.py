"""Order of images and views in training, as functions of seed and epoch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tkd_search.distill.interfaces import UNLABELLED, ViewSource
from tkd_search.seeds import child_generator

_SEEDS = 2**31
_MOST_UNLABELLED = 15.0
"""Unlabelled images per labelled one, at most, where no ratio is set: 8 labelled ones in a batch of 128."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the smallest number of equal batches per epoch that are no larger than ``batch_size``.

    Batches of 2 of an odd number of images: one has 3, because one image alone has no batch statistics.
    """
    return max(1, min(-(-images // batch_size), images // 2))


def unlabelled_per_epoch(labels: Tensor, ratio: float | None) -> int:
    """Return the number of unlabelled images in an epoch, which takes every labelled one once.

    Args:
        labels: int64 [N], at least one of them a class.
        ratio: unlabelled images per labelled one; None: as many as there are, at most 15.
    """
    unlabelled = int((labels == UNLABELLED).sum())
    labelled = len(labels) - unlabelled
    share = min(unlabelled / labelled, _MOST_UNLABELLED) if ratio is None else ratio
    return round(share * labelled) if unlabelled else 0


def batches(
    views: ViewSource,
    steps: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    workers: int = 1,
    balanced: bool = False,
    unlabelled: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one worker's (index, view) [B] for every batch of an epoch.

    Every labelled image occurs once an epoch, in one random view, in ``steps`` batches whose sizes differ by
    at most one; with ``balanced`` as many images are drawn with replacement, all classes equally likely.
    ``unlabelled`` images are spread evenly over these batches. Successive epochs take them from one endless
    sequence of random orders of all unlabelled images, so that each is taken equally often. Several workers
    share each batch evenly, so that the mean of their means is the mean of the batch; to make this possible,
    up to ``workers`` − 1 rows of a batch are dropped.
    """
    generator = child_generator(seed, "order", epoch)
    labels = views.labels.cpu()
    order = torch.nonzero(labels != UNLABELLED)[:, 0]
    labelled = len(order)
    order = order[_balanced(labels[order], generator) if balanced else _shuffled(labelled, generator)]
    if unlabelled:
        others = torch.nonzero(labels == UNLABELLED)[:, 0]
        order = torch.cat([order, others[_successive(len(others), unlabelled, seed, epoch)]])
    view = _draw_views(views, len(order), generator)
    rows = torch.arange(len(order))
    # The longer parts of one are beside the shorter ones of the other.
    parts = zip(rows[:labelled].tensor_split(steps), rows[labelled:].tensor_split(steps)[::-1], strict=True)
    for part in map(torch.cat, parts):
        even = part[: len(part) // workers * workers]
        own = even[rank::workers] if unlabelled else even.chunk(workers)[rank]
        yield order[own], view[own]


def sample(
    views: ViewSource, limit: int, *, seed: int, name: str, unlabelled: bool = True
) -> tuple[Tensor, Tensor]:
    """Return indices and views of a sample of at most ``limit`` training images, fixed by seed and name.

    Unlabelled images are among them only with ``unlabelled``.
    """
    generator = child_generator(seed, "sample", name)
    index = torch.arange(len(views)) if unlabelled else torch.nonzero(views.labels.cpu() != UNLABELLED)[:, 0]
    index = index[_shuffled(len(index), generator)][:limit]
    return index, _draw_views(views, len(index), generator)


def _shuffled(number: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(number, generator=generator)


def _successive(images: int, number: int, seed: int, epoch: int) -> Tensor:
    """Return this epoch's ``number`` of the endless sequence of random orders of ``images``."""
    first, end = epoch * number, (epoch + 1) * number
    passes = range(first // images, -(-end // images))
    orders = [_shuffled(images, child_generator(seed, "unlabelled", turn)) for turn in passes]
    start = first - passes.start * images
    return torch.cat(orders)[start : start + number]


def _balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are, with replacement: each of a class's n images with weight 1/n."""
    weights = 1 / torch.bincount(labels).double()[labels]
    return torch.multinomial(weights, len(labels), replacement=True, generator=generator)


def _draw_views(views: ViewSource, number: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, views.views or _SEEDS, (number,), generator=generator)
