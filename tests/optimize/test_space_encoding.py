"""Points of the unit cube, and features of many points at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.optimize.test_space import SPACE
from tkd_search.optimize.space import Choice, Condition, FloatDistribution, IntDistribution, Space
from tkd_search.optimize.space_encoding import Cube, coordinate

CUBE = Cube(SPACE)
points = st.lists(st.floats(0, 1), min_size=CUBE.dimensions, max_size=CUBE.dimensions).map(np.array)


def close(a, b):
    return a.keys() == b.keys() and all(
        a[k] == (pytest.approx(b[k]) if isinstance(b[k], float) else b[k]) for k in a
    )


@given(points)
def test_a_configuration_equals_that_of_its_point(point):
    config = CUBE.decode(point)
    assert close(CUBE.decode(CUBE.point(config)), config)


@given(st.lists(points, min_size=1, max_size=6))
def test_active_leaves_are_those_of_the_configuration(many):
    active = CUBE.active(np.array(many))
    for row, point in zip(active, many, strict=True):
        assert {leaf for leaf, on in zip(SPACE.order, row, strict=True) if on} == set(CUBE.decode(point))


@given(points, points)
def test_features_do_not_depend_on_inactive_leaves(point, other):
    active = CUBE.active(point[None])[0]
    changed = np.where(active, point, other)
    assert (CUBE.features(point[None]) == CUBE.features(changed[None])).all()


@given(points)
def test_features_of_a_point_and_of_its_configuration_agree(point):
    again = CUBE.point(CUBE.decode(point))
    assert CUBE.features(point[None]) == pytest.approx(CUBE.features(again[None]), abs=1e-9)


def test_two_options_are_as_far_apart_as_the_ends_of_a_range():
    cube = Cube(Space({"a": FloatDistribution(0, 1), "b": Choice(("x", "y", "z"))}))
    at = cube.features(np.array([[0, 0.1], [1, 0.1], [0, 0.5]]))
    assert np.linalg.norm(at[0] - at[1]) == pytest.approx(1)
    assert np.linalg.norm(at[0] - at[2]) == pytest.approx(1)
    assert cube.leaf_of_feature.tolist() == [0, 1, 1, 1]


def test_conditions_on_numbers():
    leaves = {"k": IntDistribution(1, 3), "t": FloatDistribution(0, 1)}
    cube = Cube(Space(leaves, (Condition("t", "k", (2, 3)),)))
    assert cube.active(np.array([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5]]))[:, 1].tolist() == [False, True, True]


@pytest.mark.parametrize("log", [False, True])
def test_equal_whole_numbers_have_equal_features(log):
    distribution = IntDistribution(1, 100, log=log)
    cube = Cube(Space({"k": distribution}))
    points = np.random.default_rng(0).random((500, 1))
    rows = {tuple(row) for row in cube.features(points)}
    assert len(rows) == len({distribution.at(u) for (u,) in points})


def test_a_range_of_one_value_has_one_feature():
    cube = Cube(Space({"k": FloatDistribution(0.25, 0.25)}))
    assert len(np.unique(cube.features(np.random.default_rng(0).random((50, 1))))) == 1


@pytest.mark.parametrize(
    "distribution",
    [FloatDistribution(1, 100, log=True), IntDistribution(1, 10), IntDistribution(1, 100, log=True)],
    ids=str,
)
def test_coordinates_increase_with_the_value(distribution):
    found = [coordinate(distribution, value) for value in (1, 2, 5, 10)]
    assert found == sorted(found)
    assert all(distribution.at(u) == pytest.approx(v) for u, v in zip(found, (1, 2, 5, 10), strict=True))
