"""Stratified splits and limits by seed."""

from collections.abc import Container

import numpy as np
import torch
from torch import Tensor


def held_out(
    labels: Tensor, share: float, seed: int, *, keep: int = 1, whole: Container[int] = ()
) -> tuple[Tensor, Tensor]:
    """Split positions into (kept, held out), the same share of every class.

    Args:
        labels: int64 [N].
        share: share held out, in (0, 1). At least ``keep`` images of every class are kept, then at least one
            is held out, as far as the class has them.
        seed: the split is a pure function of the arguments.
        keep: least number kept of every class; 2 where another part will be held out of the kept ones.
        whole: labels of the classes that are kept whole.

    Returns:
        Two sorted int64 tensors of positions.
    """
    kept, held = [], []
    for positions in _shuffled_classes(labels, seed):
        most = 0 if int(labels[positions[0]]) in whole else max(len(positions) - keep, 0)
        count = min(max(round(len(positions) * share), 1), most)
        held.append(positions[:count])
        kept.append(positions[count:])
    return _joined(kept), _joined(held)


def limited(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Return sorted positions of at most ``limit`` images, equally many of every class where possible.

    What a small class cannot fill of its share goes to the other classes (water-filling). The positions of a
    smaller limit are a subset of a larger one's up to rounding, since the order within a class is fixed.
    """
    groups = _shuffled_classes(labels, seed)
    counts = _even_counts([len(group) for group in groups], limit)
    return _joined([group[:count] for group, count in zip(groups, counts, strict=True)])


def _even_counts(sizes: list[int], limit: int) -> list[int]:
    counts, left = [0] * len(sizes), min(limit, sum(sizes))
    while left > 0:
        open_classes = [i for i, size in enumerate(sizes) if counts[i] < size]
        share = max(left // len(open_classes), 1)
        for i in open_classes[:left]:
            taken = min(share, sizes[i] - counts[i], left)
            counts[i] += taken
            left -= taken
    return counts


def _shuffled_classes(labels: Tensor, seed: int) -> list[np.ndarray]:
    """Return the positions of every class in a random order (by NumPy, stable across torch versions)."""
    array = labels.numpy()
    return [
        np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(array == label))
        for label in np.unique(array)
    ]


def _joined(parts: list[np.ndarray]) -> Tensor:
    if not parts:
        return torch.empty(0, dtype=torch.int64)
    return torch.from_numpy(np.sort(np.concatenate(parts)).astype(np.int64))
