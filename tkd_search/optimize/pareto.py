"""Dominance, fronts and hypervolume: arrays in, arrays out.

Points are rows of an array [n, m]. ``directions`` names what is better in each column; None means that
every column is minimised. NaN: a point with a NaN coordinate is incomparable: it dominates nothing, is
never on a front and adds no volume. ±inf are ordinary values for dominance. Ties and duplicates: equal
points do not dominate each other, so every copy of a front point is on the front.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction = Literal["minimize", "maximize"]
BYTES_AND_ACCURACY: tuple[Direction, Direction] = ("minimize", "maximize")
"""The two objectives of a search, in the order in which every array of this package holds them."""

SIZE_DECADES = 3.0
"""The size axis of the normalised square spans bytes(F)/10³ … bytes(F)."""


def as_costs(points: ArrayLike, directions: Sequence[Direction] | None = None) -> NDArray[np.float64]:
    """The same points [n, m] with every column minimised; an empty input gives shape [0, m].

    Raises:
        ValueError: not a two-dimensional array, or a number of directions that is not m.
    """
    costs = np.array(points, dtype=np.float64)
    if costs.size == 0:
        return np.empty((0, len(directions) if directions else 0))
    if costs.ndim != 2:
        raise ValueError(f"points must have shape [n, m], not {list(costs.shape)}")
    if directions is None:
        return costs
    if len(directions) != costs.shape[1]:
        raise ValueError(f"{len(directions)} directions for {costs.shape[1]} columns")
    costs *= [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    return costs


def dominates(a: ArrayLike, b: ArrayLike, directions: Sequence[Direction] | None = None) -> bool:
    """Whether point a [m] is at least as good as b [m] everywhere and better somewhere."""
    first, second = as_costs(np.stack([np.asarray(a), np.asarray(b)]), directions)
    return bool((first <= second).all() and (first < second).any())


def nondominated_mask(points: ArrayLike, directions: Sequence[Direction] | None = None) -> NDArray[np.bool_]:
    """Which points [n] no other point dominates. One sort for two columns, all pairs for more."""
    costs = as_costs(points, directions)
    mask: NDArray[np.bool_] = np.logical_not(np.isnan(costs).any(axis=1))
    kept = np.flatnonzero(mask)
    if kept.size == 0:
        return mask
    if costs.shape[1] == 2:
        mask[kept] = _front_of_two(costs[kept])
    else:
        mask[kept] = [not _dominated_by_any(point, costs[kept]) for point in costs[kept]]
    return mask


def nondominated_sort(points: ArrayLike, directions: Sequence[Direction] | None = None) -> NDArray[np.int64]:
    """Rank of each point [n]: 0 on the front, 1 on the front of the rest, …; NaN points come last of all."""
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
    """Volume that the points [n, m] dominate up to the reference point [m]; exact for any m.

    Points that do not beat the reference in every column add nothing; no points give 0. Two columns take
    one sweep; more take the WFG recursion over exclusive volumes (While, Bradstreet & Barone 2012), whose
    cost grows exponentially in m in the worst case.
    """
    columns = len(np.atleast_1d(np.asarray(reference)))
    bound = as_costs(np.atleast_2d(np.asarray(reference)), directions)[0]
    costs = as_costs(points, directions)
    if len(costs) and costs.shape[1] != columns:
        raise ValueError(f"{costs.shape[1]} columns, but the reference point has {columns}")
    costs = costs[(costs < bound).all(axis=1)] if len(costs) else costs
    if len(costs) == 0:
        return 0.0
    front = np.unique(costs[nondominated_mask(costs)], axis=0)
    return _sweep(front, bound) if columns == 2 else _wfg(front, bound)


def unit_square(
    sizes: ArrayLike, accuracies: ArrayLike, *, big_model_bytes: float, classes: int
) -> NDArray[np.float64]:
    """Normalised points [n, 2], both in [0, 1] and clipped: size (minimised) and accuracy (maximised).

    log10(bytes) is mapped linearly from bytes(F)/1000 → 0 to bytes(F) → 1; accuracy from chance
    1/classes → 0 to 1 → 1. NaN stays NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(np.asarray(sizes, dtype=np.float64)) - math.log10(big_model_bytes)
    chance = 1.0 / classes
    above = (np.asarray(accuracies, dtype=np.float64) - chance) / (1.0 - chance)
    return np.clip(np.column_stack([decades / SIZE_DECADES + 1.0, above]), 0.0, 1.0)


def normalised_hypervolume(
    sizes: ArrayLike, accuracies: ArrayLike, *, big_model_bytes: float, classes: int
) -> float:
    """The hypervolume of a search, in [0, 1]: area that (bytes, accuracy) points dominate in the unit square.

    The reference point is (bytes(F), chance): a student as large as F, or no better than chance, adds
    nothing. No points give 0.

    Args:
        sizes: bytes of each student [n].
        accuracies: validation accuracy of each student [n], in [0, 1].
        big_model_bytes: bytes of F.
        classes: number of classes, > 1; chance is 1/classes.
    """
    square = unit_square(sizes, accuracies, big_model_bytes=big_model_bytes, classes=classes)
    return hypervolume(square, (1.0, 0.0), BYTES_AND_ACCURACY)


def _front_of_two(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Front of [n, 2] without NaN: along the first cost the second must fall strictly, copies apart."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    first, second = costs[order, 0], costs[order, 1]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
    better = second < best_before
    better[0] = True  # the least first cost, and among those the least second: even where that is inf
    copy_of_previous = np.concatenate([[False], (first[1:] == first[:-1]) & (second[1:] == second[:-1])])
    group = np.cumsum(~copy_of_previous) - 1
    front_sorted = better[~copy_of_previous][group]
    mask = np.zeros(len(costs), dtype=np.bool_)
    mask[order] = front_sorted
    return mask


def _dominated_by_any(point: NDArray[np.float64], costs: NDArray[np.float64]) -> bool:
    return bool(((costs <= point).all(axis=1) & (costs < point).any(axis=1)).any())


def _sweep(front: NDArray[np.float64], bound: NDArray[np.float64]) -> float:
    """Area under a front [n, 2] sorted by its first cost, without copies."""
    widths = np.append(front[1:, 0], bound[0]) - front[:, 0]
    return float(np.sum(widths * (bound[1] - front[:, 1])))


def _wfg(front: NDArray[np.float64], bound: NDArray[np.float64]) -> float:
    """Sum of exclusive volumes: each point's box less what the points after it dominate of that box."""
    total = 0.0
    for i, point in enumerate(front):
        total += float(np.prod(bound - point))
        if i + 1 < len(front):
            clipped = np.maximum(front[i + 1 :], point)
            total -= _wfg(np.unique(clipped[nondominated_mask(clipped)], axis=0), bound)
    return total
