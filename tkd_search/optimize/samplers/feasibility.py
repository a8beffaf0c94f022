"""Which students are likely to be trained at all: near refused ones (too slow) it is not worth asking."""

import numpy as np

from tkd_search.optimize.space_encoding import Array

_WIDTH = 0.05
"""Distance in features of the student's leaves, of which a range spans 1, over which a refusal tells."""
_DOUBT = 0.01
"""What speaks for a student far from all that were tried."""


class Feasibility:
    """The share of trained ones among trials whose students are near, near ones counting more.

    Args:
        trained: features of the students' leaves [a, S] of trials that trained.
        refused: of those that broke a limit before their first epoch [r, S].
    """

    def __init__(self, trained: Array, refused: Array) -> None:
        self._trained, self._refused = trained, refused

    def __call__(self, students: Array) -> Array:
        """The share [n], in (0, 1], for students [n, S]; 1 where nothing is known."""
        if not len(self._refused):
            return np.ones(len(students))
        good = _near(students, self._trained) + _DOUBT
        return np.asarray(good / (good + _near(students, self._refused)))


def _near(students: Array, others: Array) -> Array:
    squared = ((students[:, None] - others[None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * squared / _WIDTH**2).sum(axis=1))
