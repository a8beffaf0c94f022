"""Estimates which students keep the limits (of latency), from those that did and those that did not."""

import numpy as np

from tkd_search.optimize.space_encoding import Array

_WIDTH = 0.05
"""Width of the Gaussian kernel in features of the student's leaves, where a range spans 1."""
_PRIOR = 0.01
"""Kernel weight in favour of a student far from all others."""


class Feasibility:
    """The share of trained trials among those with similar students, weighted by a Gaussian kernel.

    Args:
        trained: features of the students' leaves [a, S] of trained trials.
        refused: the same [r, S] of trials whose student was above a limit.
    """

    def __init__(self, trained: Array, refused: Array) -> None:
        self._trained, self._refused = trained, refused

    def __call__(self, students: Array) -> Array:
        """Return the share [n], in (0, 1], for students [n, S]; 1 where no student was refused."""
        if not len(self._refused):
            return np.ones(len(students))
        good = _kernel_sum(students, self._trained) + _PRIOR
        return np.asarray(good / (good + _kernel_sum(students, self._refused)))


def _kernel_sum(students: Array, others: Array) -> Array:
    squared = ((students[:, None] - others[None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * squared / _WIDTH**2).sum(axis=1))
