"""Exact costs of students before they are trained.

A regression of bytes smooths over the steps in which channels are counted. At the small end, where most
hypervolume lies, a few per cent of bytes are worth more than a whole trial gains. A student's bytes are known
without training, so the sampler's candidates are moved to a grid of students, and those are built. A latency
must be measured, which takes a second: candidates have a predicted one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tkd_search.errors import UserError
from tkd_search.optimize.space import FloatDistribution
from tkd_search.optimize.space_encoding import Array, Cube

CostOf = Callable[[Mapping[str, Any]], float]
"""Flat configuration → cost of its student, > 0; NaN where the student can be built and its cost is unknown.

Raises UserError where it cannot be built."""

STUDENT = "student."
"""Prefix of the leaves that decide a student's cost."""

_STEPS = 256
"""Steps of the grid over each range of floats."""


def student_columns(cube: Cube) -> list[int]:
    """Return the indices of the leaves that decide the student."""
    return [i for i, leaf in enumerate(cube.space.order) if leaf.startswith(STUDENT)]


class Costs:
    """Costs at points of a cube.

    A student that cannot be built costs infinitely much: its trial would fail. :meth:`reset` makes every cost
    unknown, although no student is built twice: results depend only on the calls since then.

    Args:
        cube: of the searched space.
        cost_of: exact cost of a configuration; called once per student of the grid.
    """

    def __init__(self, cube: Cube, cost_of: CostOf) -> None:
        self._cube, self._cost_of = cube, cost_of
        order, leaves = cube.space.order, cube.space.leaves
        self._columns = student_columns(cube)
        self._floats = [i for i in self._columns if isinstance(leaves[order[i]], FloatDistribution)]
        self._built: dict[bytes, float] = {}
        self._known: set[bytes] = set()

    def reset(self) -> None:
        """Make every cost unknown."""
        self._known.clear()

    def is_known(self, point: Array) -> bool:
        """Return whether the student at a snapped point [L] was built since the last :meth:`reset`."""
        return self._keys(point[None])[0] in self._known

    def snap(self, points: Array) -> Array:
        """Return the points [n, L] with the floats of their students on the grid (257 values per range)."""
        snapped = points.copy()
        snapped[:, self._floats] = np.round(snapped[:, self._floats] * _STEPS) / _STEPS
        return snapped

    def log_cost(self, points: Array, most: int) -> Array:
        """Return log10 of the costs [n] at snapped points [n, L]: NaN where unknown, inf where not buildable.

        Args:
            points: in the order in which they become known.
            most: number of students that this call makes known.
        """
        keys = self._keys(points)
        for key, point in zip(keys, points, strict=True):
            if most == 0:
                break
            if key not in self._known:
                if key not in self._built:
                    self._built[key] = self._build(point)
                self._known.add(key)
                most -= 1
        return np.array([self._built[key] if key in self._known else np.nan for key in keys])

    def can_build(self, config: Mapping[str, Any]) -> bool:
        """Return whether the student of a configuration can be built; its cost stays unknown."""
        return not np.isinf(self._log_cost_of(config))

    def _build(self, point: Array) -> float:
        return self._log_cost_of(self._cube.decode(point))

    def _log_cost_of(self, config: Mapping[str, Any]) -> float:
        try:
            return float(np.log10(self._cost_of(config)))
        except UserError:
            return np.inf

    def _keys(self, points: Array) -> list[bytes]:
        students: NDArray[np.float64] = self._cube.features(points)
        owned = np.isin(self._cube.leaf_of_feature, self._columns)
        return [row.tobytes() for row in np.ascontiguousarray(students[:, owned])]
