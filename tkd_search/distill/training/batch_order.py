"""Which images, in which views, in which order: functions of seed and epoch alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tkd_search.distill.interfaces import ViewSource
from tkd_search.distill.random_streams import child_generator

_SEEDS = 2**31


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches per epoch: the fewest of equal size that are no larger than ``batch_size``."""
    return max(1, -(-images // batch_size))


def batches(
    views: ViewSource, steps: int, *, seed: int, epoch: int, rank: int = 0, workers: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """One worker's (index, view) [B] of every batch of an epoch.

    Every image comes once an epoch, in one random view, in ``steps`` batches whose sizes differ by one at
    most. Several workers share each batch evenly, so that a mean of their means is the mean; up to
    ``workers`` − 1 rows of a batch are left out for that.
    """
    generator = child_generator(seed, "order", epoch)
    order = torch.randperm(len(views), generator=generator)
    view = _draw_views(views, len(order), generator)
    for rows in torch.arange(len(order)).tensor_split(steps):
        mine = rows[: len(rows) // workers * workers].chunk(workers)[rank] if workers > 1 else rows
        yield order[mine], view[mine]


def sample(views: ViewSource, most: int, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """A fixed sample, by name, of at most so many training images, and a view of each."""
    generator = child_generator(seed, "sample", name)
    index = torch.randperm(len(views), generator=generator)[:most]
    return index, _draw_views(views, len(index), generator)


def _draw_views(views: ViewSource, number: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, views.views or _SEEDS, (number,), generator=generator)
