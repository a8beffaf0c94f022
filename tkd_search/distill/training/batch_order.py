"""Order of images and views in training, as functions of seed and epoch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tkd_search.distill.interfaces import ViewSource
from tkd_search.seeds import child_generator

_SEEDS = 2**31


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the smallest number of equal batches per epoch that are no larger than ``batch_size``."""
    return max(1, -(-images // batch_size))


def batches(
    views: ViewSource,
    steps: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    workers: int = 1,
    balanced: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one worker's (index, view) [B] for every batch of an epoch.

    Every image occurs once an epoch, in one random view, in ``steps`` batches whose sizes differ by at most
    one; with ``balanced`` as many images are drawn with replacement, all classes equally likely. Several
    workers share each batch evenly, so that the mean of their means is the mean of the batch; to make this
    possible, up to ``workers`` − 1 rows of a batch are dropped.
    """
    generator = child_generator(seed, "order", epoch)
    order = _balanced_order(views, generator) if balanced else torch.randperm(len(views), generator=generator)
    view = _draw_views(views, len(order), generator)
    for rows in torch.arange(len(order)).tensor_split(steps):
        own = rows[: len(rows) // workers * workers].chunk(workers)[rank] if workers > 1 else rows
        yield order[own], view[own]


def sample(views: ViewSource, limit: int, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Return indices and views of a sample of at most ``limit`` training images, fixed by seed and name."""
    generator = child_generator(seed, "sample", name)
    index = torch.randperm(len(views), generator=generator)[:limit]
    return index, _draw_views(views, len(index), generator)


def _balanced_order(views: ViewSource, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are, with replacement: each of a class's n images with weight 1/n."""
    labels = views.labels.cpu()
    weights = 1 / torch.bincount(labels).double()[labels]
    return torch.multinomial(weights, len(labels), replacement=True, generator=generator)


def _draw_views(views: ViewSource, number: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, views.views or _SEEDS, (number,), generator=generator)
