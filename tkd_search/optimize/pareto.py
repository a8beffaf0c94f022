"""Fronts and hypervolume of two objectives: arrays in, arrays out.

Points are rows of an array [n, 2]. ``directions`` states what is better in each column; None means that both
are minimised. NaN: a point with a NaN coordinate is incomparable: it dominates nothing, is never on a front
and adds no volume. ±inf are ordinary values for dominance. Ties: equal points do not dominate each other, so
every copy of a front point is on the front.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction = Literal["minimize", "maximize"]
COST_AND_ACCURACY: tuple[Direction, Direction] = ("minimize", "maximize")
"""Directions of the two objectives of a search, in the order of the columns of every array."""


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


def as_costs(points: ArrayLike, directions: Sequence[Direction] | None = None) -> NDArray[np.float64]:
    """Return the points [n, 2] with both columns minimised; an empty input gives shape [0, 2].

    Raises:
        ValueError: not an array [n, 2], or not two directions.
    """
    costs = np.array(points, dtype=np.float64)
    if costs.size == 0:
        costs = costs.reshape(0, 2)
    if costs.ndim != 2 or costs.shape[1] != 2:
        raise ValueError(f"points must have shape [n, 2], not {list(costs.shape)}")
    if directions is None:
        return costs
    if len(directions) != 2:
        raise ValueError(f"{len(directions)} directions for 2 columns")
    costs *= [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    return costs


def nondominated_mask(points: ArrayLike, directions: Sequence[Direction] | None = None) -> NDArray[np.bool_]:
    """Return which points [n] no other point dominates, by one sort."""
    costs = as_costs(points, directions)
    mask: NDArray[np.bool_] = np.logical_not(np.isnan(costs).any(axis=1))
    comparable = np.flatnonzero(mask)
    if comparable.size:
        mask[comparable] = _front(costs[comparable])
    return mask


def nondominated_sort(points: ArrayLike, directions: Sequence[Direction] | None = None) -> NDArray[np.int64]:
    """Return the rank of each point [n]: 0 on the front, 1 on the front of the rest, …; NaN points last."""
    costs = as_costs(points, directions)
    ranks = np.full(len(costs), -1, dtype=np.int64)
    left = np.flatnonzero(~np.isnan(costs).any(axis=1))
    rank = 0
    while left.size:
        front = nondominated_mask(costs[left])
        ranks[left[front]] = rank
        left = left[~front]
        rank += 1
    ranks[ranks < 0] = rank
    return ranks


def hypervolume(
    points: ArrayLike, reference: ArrayLike, directions: Sequence[Direction] | None = None
) -> float:
    """Return the area that the points [n, 2] dominate up to the reference point [2].

    Points that do not beat the reference in both columns add nothing; no points give 0.
    """
    bound = as_costs(np.atleast_2d(np.asarray(reference)), directions)[0]
    costs = as_costs(points, directions)
    costs = costs[(costs < bound).all(axis=1)]
    if len(costs) == 0:
        return 0.0
    front = np.unique(costs[nondominated_mask(costs)], axis=0)  # sorted by the first column
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
    return hypervolume(square, (1.0, 0.0), COST_AND_ACCURACY)


def _front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the front of costs [n, 2] without NaN.

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
