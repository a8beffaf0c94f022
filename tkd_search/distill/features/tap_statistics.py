"""Streaming per-channel statistics of features, merged exactly (Chan, Golub, LeVeque 1979).

Any split of the rows into batches and workers gives, up to rounding, the mean, variance and class means of
one pass in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean, centred sum of squares and class sums of rows of features, all in float64.

    ``mean`` and ``m2`` are [C], ``class_count`` [c], ``class_sum`` [c, C].
    """

    count: int
    mean: Tensor
    m2: Tensor
    class_count: Tensor
    class_sum: Tensor

    @property
    def variance(self) -> Tensor:
        """Population variance per channel [C]; zeros where there are no rows."""
        return self.m2 / max(self.count, 1)


def moments(rows: Tensor, labels: Tensor, classes: int) -> Moments:
    """Return the statistics of one batch: ``rows`` [B, C] of any floating type, ``labels`` int64 [B]."""
    x = rows.double()
    mean = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
    class_sum = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x)
    class_count = torch.bincount(labels, minlength=classes).double()
    return Moments(len(x), mean, (x - mean).square().sum(0), class_count, class_sum)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the statistics of the union of two disjoint sets of rows (Chan's formula)."""
    count = a.count + b.count
    if count == 0:
        return a
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.count / count)
    m2 = a.m2 + b.m2 + delta.square() * (a.count * b.count / count)
    return Moments(count, mean, m2, a.class_count + b.class_count, a.class_sum + b.class_sum)


def fisher_ratio(stats: Moments) -> float:
    """Return between-class over within-class variance, both summed over standardised channels; ≥ 0.

    Every channel is first divided by its total variance, so that all channels count alike. The ratio is 0
    where every channel is constant.
    """
    present = stats.class_count > 0
    weight = (stats.class_count[present] / max(stats.count, 1))[:, None]
    means = stats.class_sum[present] / stats.class_count[present][:, None]
    between = (weight * (means - stats.mean).square()).sum(0)
    varying = stats.variance > 1e-12
    if not bool(varying.any()):
        return 0.0
    share = (between[varying] / stats.variance[varying]).clamp(0, 1)
    return float(share.sum() / (1 - share).sum().clamp_min(1e-9))
