"""Encoding of configurations as points of the unit cube and as features of a model, many at once.

A point has one coordinate per leaf, in the space's order: the quantile of a number, the middle of an option's
share. Inactive leaves have the coordinate 0.5, which the features ignore.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tkd_search.optimize.space import (
    Choice,
    Condition,
    Distribution,
    FloatDistribution,
    IntDistribution,
    Space,
)

Array = NDArray[np.float64]

_OPTION = math.sqrt(0.5)
"""One-hot value. It puts two different options at distance 1, like the two ends of a range."""


class Cube:
    """The unit cube of a space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.dimensions = len(space.order)
        index = {leaf: i for i, leaf in enumerate(space.order)}
        # In the space's order parents come before their children, so ``active`` can go through once.
        by_child = sorted(space.conditions, key=lambda condition: index[condition.leaf])
        self._conditions = [(index[c.leaf], index[c.parent], c) for c in by_child]
        widths = [_width(space.leaves[leaf]) for leaf in space.order]
        self.leaf_of_feature = np.repeat(np.arange(self.dimensions), widths)

    def point(self, config: Mapping[str, Any]) -> Array:
        """Return the coordinates [L] of a configuration; :meth:`decode` is the inverse."""
        return np.array(
            [
                coordinate(self.space.leaves[leaf], config[leaf]) if leaf in config else 0.5
                for leaf in self.space.order
            ]
        )

    def decode(self, point: Array) -> dict[str, Any]:
        """Return the configuration at a point [L]."""
        return self.space.at(point.tolist())

    def active(self, points: Array) -> NDArray[np.bool_]:
        """Return which leaves apply [n, L] at each of the points [n, L]."""
        result = np.ones(points.shape, dtype=np.bool_)
        for child, parent, condition in self._conditions:
            result[:, child] &= result[:, parent] & self._holds(condition, points[:, parent])
        return result

    def features(self, points: Array) -> Array:
        """Return model inputs [n, D] of points [n, L]: quantiles, one-hot options, neutral where inactive."""
        active = self.active(points)
        columns = []
        for i, leaf in enumerate(self.space.order):
            distribution = self.space.leaves[leaf]
            if isinstance(distribution, Choice):
                one_hot = np.eye(len(distribution.options))[_option_index(distribution, points[:, i])]
                columns.append(one_hot * _OPTION * active[:, i, None])
            else:
                columns.append(np.where(active[:, i], _snapped(distribution, points[:, i]), 0.5)[:, None])
        return np.hstack(columns) if columns else np.empty((len(points), 0))

    def _holds(self, condition: Condition, coordinates: Array) -> NDArray[np.bool_]:
        parent = self.space.leaves[condition.parent]
        if not isinstance(parent, Choice):
            return np.array([condition.holds({condition.parent: parent.at(u)}) for u in coordinates])
        holds = np.array([condition.holds({condition.parent: option}) for option in parent.options])
        return np.asarray(holds[_option_index(parent, coordinates)])


def _option_index(choice: Choice, coordinates: Array) -> NDArray[np.int64]:
    """Return the index of the option at each coordinate."""
    count = len(choice.options)
    return np.minimum((coordinates * count).astype(np.int64), count - 1)


def coordinate(distribution: Distribution, value: Any) -> float:
    """Return a value's coordinate in [0, 1]: its quantile, or the middle of its option's share."""
    if isinstance(distribution, Choice):
        index = next(i for i, option in enumerate(distribution.options) if Choice((option,)).contains(value))
        return (index + 0.5) / len(distribution.options)
    low, high, at = float(distribution.low), float(distribution.high), float(value)
    if isinstance(distribution, IntDistribution):
        if not distribution.log:
            return (at - low + 0.5) / (high - low + 1)
        low, high = low - 0.5, high + 0.5
    if distribution.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.5


def _snapped(distribution: Distribution, coordinates: Array) -> Array:
    """Return the coordinates with equal ones for the same value."""
    if not isinstance(distribution, IntDistribution):
        fixed = isinstance(distribution, FloatDistribution) and distribution.low == distribution.high
        return np.full_like(coordinates, 0.5) if fixed else coordinates
    if distribution.log:
        return np.array([coordinate(distribution, distribution.at(u)) for u in coordinates])
    count = distribution.high - distribution.low + 1
    return np.asarray((np.minimum(np.floor(coordinates * count), count - 1) + 0.5) / count)


def _width(distribution: Distribution) -> int:
    return len(distribution.options) if isinstance(distribution, Choice) else 1
