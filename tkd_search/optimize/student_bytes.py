"""Bytes of students that were not trained yet, exact and built once each.

A model of bytes smooths over the steps in which channels are counted: at the small end, where most
hypervolume lies, a few per cent of bytes outweigh what a whole trial gains. A student's bytes are known
before it is trained, so candidates are moved to a grid of students and those are built.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tkd_search.errors import UserError
from tkd_search.optimize.space import FloatDistribution
from tkd_search.optimize.space_encoding import Array, Cube

SizeOf = Callable[[Mapping[str, Any]], int]
"""A flat configuration → bytes of its student."""

STUDENT = "student."
"""Leaves that decide a student's bytes begin so."""

_STEPS = 256


def student_columns(cube: Cube) -> list[int]:
    """Coordinates of the leaves that decide the student."""
    return [i for i, leaf in enumerate(cube.space.order) if leaf.startswith(STUDENT)]


class Sizes:
    """Bytes at points of a cube.

    Args:
        cube: of the searched space.
        size_of: exact bytes of a configuration; called once for each student of the grid that is asked for.

    A student that cannot be built has infinitely many bytes: its trial would fail.

    What was asked for before ``forget`` counts as unknown, though it is not built again: so answers depend on
    what was asked since, and on nothing else.
    """

    def __init__(self, cube: Cube, size_of: SizeOf) -> None:
        self._cube, self._size_of = cube, size_of
        order, leaves = cube.space.order, cube.space.leaves
        self._columns = student_columns(cube)
        self._floats = [i for i in self._columns if isinstance(leaves[order[i]], FloatDistribution)]
        self._built: dict[bytes, float] = {}
        self._known: set[bytes] = set()

    def forget(self) -> None:
        """Begin anew: nothing is known."""
        self._known.clear()

    def is_known(self, point: Array) -> bool:
        """Whether the bytes at a snapped point [L] were asked for."""
        return self._keys(point[None])[0] in self._known

    def snap(self, points: Array) -> Array:
        """The points [n, L] with the numbers of their students on the grid (257 steps of each range)."""
        snapped = points.copy()
        snapped[:, self._floats] = np.round(snapped[:, self._floats] * _STEPS) / _STEPS
        return snapped

    def log_bytes(self, points: Array, most: int) -> Array:
        """log10 of the bytes [n] at snapped points [n, L]: NaN where unknown, infinite where none is.

        Args:
            points: in the order in which they should become known.
            most: students that become known by this call.
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
        """Whether the student of a configuration can be built; ``log_bytes`` learns nothing by it."""
        return bool(np.isfinite(self._log_bytes_of(config)))

    def _build(self, point: Array) -> float:
        return self._log_bytes_of(self._cube.decode(point))

    def _log_bytes_of(self, config: Mapping[str, Any]) -> float:
        try:
            return float(np.log10(self._size_of(config)))
        except UserError:
            return np.inf

    def _keys(self, points: Array) -> list[bytes]:
        students: NDArray[np.float64] = self._cube.features(points)
        owned = np.isin(self._cube.leaf_of_feature, self._columns)
        return [row.tobytes() for row in np.ascontiguousarray(students[:, owned])]
