"""Fronts and hypervolume of two objectives: arrays in, arrays out.

Points are rows (cost, accuracy) of an array [n, 2]: costs are minimised, accuracies maximised. NaN: a point
with a NaN coordinate is incomparable: it dominates nothing, is never on a front and adds no volume. ±inf are
ordinary values for dominance. Ties: equal points do not dominate each other, so every copy of a front point
is on the front.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class CostScale:
    """The axis of costs of the unit square.

    Attributes:
        reference: the cost that is mapped to 1, F's own, > 0.
        decades: factors of ten below the reference at which the axis begins, > 0.
        unit: of all costs, such as ``bytes``.
    """

    reference: float
    decades: float = 3.0
    unit: str = "bytes"


def nondominated_mask(points: ArrayLike) -> NDArray[np.bool_]:
    """Return which points [n] no other point dominates, by one sort."""
    costs = _minimised(points)
    mask: NDArray[np.bool_] = np.logical_not(np.isnan(costs).any(axis=1))
    comparable = np.flatnonzero(mask)
    if comparable.size:
        mask[comparable] = _front(costs[comparable])
    return mask


def nondominated_sort(points: ArrayLike) -> NDArray[np.int64]:
    """Return the rank of each point [n]: 0 on the front, 1 on the front of the rest, …; NaN points last."""
    costs = _minimised(points)
    ranks = np.full(len(costs), -1, dtype=np.int64)
    left = np.flatnonzero(~np.isnan(costs).any(axis=1))
    rank = 0
    while left.size:
        front = _front(costs[left])
        ranks[left[front]] = rank
        left = left[~front]
        rank += 1
    ranks[ranks < 0] = rank
    return ranks


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the area that the points [n, 2] dominate up to the reference point [2].

    Points that do not beat the reference in both columns add nothing; no points give 0.
    """
    bound = _minimised(np.atleast_2d(np.asarray(reference)))[0]
    costs = _minimised(points)
    costs = costs[(costs < bound).all(axis=1)]
    if len(costs) == 0:
        return 0.0
    front = np.unique(costs[_front(costs)], axis=0)  # sorted by the first column
    widths = np.append(front[1:, 0], bound[0]) - front[:, 0]
    return float(np.sum(widths * (bound[1] - front[:, 1])))


def unit_square(
    costs: ArrayLike, accuracies: ArrayLike, *, scale: CostScale, classes: int
) -> NDArray[np.float64]:
    """Return normalised points [n, 2], clipped to [0, 1]: cost (minimised) and accuracy (maximised).

    log10(cost) is mapped linearly from the scale's begin → 0 to its reference → 1; accuracy from chance
    1/classes → 0 to 1 → 1. NaN stays NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(np.asarray(costs, dtype=np.float64)) - math.log10(scale.reference)
    chance = 1.0 / classes
    above = (np.asarray(accuracies, dtype=np.float64) - chance) / (1.0 - chance)
    return np.clip(np.column_stack([decades / scale.decades + 1.0, above]), 0.0, 1.0)


def normalised_hypervolume(
    costs: ArrayLike, accuracies: ArrayLike, *, scale: CostScale, classes: int
) -> float:
    """Return the hypervolume of a search, in [0, 1]: the area that its students dominate in the unit square.

    The reference point is (cost of F, chance): a student that costs as much as F, or is no better than
    chance, adds nothing. No students give 0.

    Args:
        costs: of each student [n], in the unit of the scale.
        accuracies: validation accuracy of each student [n], in [0, 1].
        scale: of the costs.
        classes: number of classes, > 1; chance is 1/classes.
    """
    square = unit_square(costs, accuracies, scale=scale, classes=classes)
    return hypervolume(square, (1.0, 0.0))


def _minimised(points: ArrayLike) -> NDArray[np.float64]:
    """Return the points [n, 2] with negated accuracies; an empty input gives shape [0, 2].

    Raises:
        ValueError: not an array [n, 2].
    """
    costs = np.array(points, dtype=np.float64)
    if costs.size == 0:
        costs = costs.reshape(0, 2)
    if costs.ndim != 2 or costs.shape[1] != 2:
        raise ValueError(f"points must have shape [n, 2], not {list(costs.shape)}")
    return costs * [1.0, -1.0]


def _front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points [n] no other dominates; both columns [n, 2] are minimised and have no NaN.

    Sorted by the first cost, each point's second cost must be below that of all before it. Copies of a point
    are decided as one.
    """
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    first, second = costs[order, 0], costs[order, 1]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
    better = second < best_before
    better[0] = True  # the least first cost, and among those the least second: even where that is inf
    copy_of_previous = np.concatenate([[False], (first[1:] == first[:-1]) & (second[1:] == second[:-1])])
    group = np.cumsum(~copy_of_previous) - 1
    mask = np.zeros(len(costs), dtype=np.bool_)
    mask[order] = better[~copy_of_previous][group]
    return mask
