"""The hypervolume that a student would add to a front."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_nodes, _weights = np.polynomial.hermite_e.hermegauss(9)
NODES: Array = _nodes
WEIGHTS: Array = _weights / _weights.sum()
"""Gauss-Hermite quadrature of a standard normal: nodes and weights [9]."""


def area_gain(front: Array, costs: Array, heights: Array) -> Array:
    """Return the area that single points would add to the area a front dominates in the unit square.

    Args:
        front: points [m, 2] (cost minimised, height maximised), costs strictly ascending and so heights.
        costs: of the new points [n], in [0, 1].
        heights: of the new points [n, q], in [0, 1].

    Returns:
        Gain [n, q]: below the point, above the front's staircase, up to cost 1.
    """
    edges = np.concatenate([[0.0], front[:, 0], [1.0]])
    levels = np.concatenate([[0.0], front[:, 1]])
    gain = np.zeros(heights.shape)
    for left, right, level in zip(edges[:-1], edges[1:], levels, strict=True):
        width = np.clip(right - np.maximum(left, costs), 0.0, None)
        gain += width[:, None] * np.clip(heights - level, 0.0, None)
    return gain
