"""The area gain of a point equals the hypervolume it adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.optimize.pareto import hypervolume, nondominated_mask
from tkd_search.optimize.samplers.hypervolume_gain import NODES, WEIGHTS, area_gain

unit = st.floats(0, 1)
clouds = st.lists(st.tuples(unit, unit), max_size=8).map(lambda rows: np.array(rows).reshape(-1, 2))
REFERENCE = (1.0, 0.0)


def front_of(cloud):
    return np.unique(cloud[nondominated_mask(cloud)], axis=0)


@given(clouds, unit, st.lists(unit, min_size=1, max_size=4))
def test_gain_is_the_difference_of_hypervolumes(cloud, size, heights):
    before = hypervolume(cloud, REFERENCE)
    gains = area_gain(front_of(cloud), np.array([size]), np.array([heights]))[0]
    for height, gain in zip(heights, gains, strict=True):
        after = hypervolume(np.vstack([cloud, [size, height]]), REFERENCE)
        assert gain == pytest.approx(after - before, abs=1e-9)


def test_quadrature_integrates_a_normal():
    assert WEIGHTS.sum() == pytest.approx(1)
    assert (WEIGHTS * NODES).sum() == pytest.approx(0, abs=1e-12)
    assert (WEIGHTS * NODES**2).sum() == pytest.approx(1)
    assert (WEIGHTS * NODES**4).sum() == pytest.approx(3)
