"""Fronts and hypervolume: worked cases, and properties by Hypothesis."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.optimize.dominance import dominates
from tkd_search.optimize.pareto import (
    CostScale,
    hypervolume,
    nondominated_mask,
    nondominated_sort,
    normalised_hypervolume,
    unit_square,
)

# Points are (cost, accuracy). A coarse grid makes ties and duplicates common.
coarse = st.integers(0, 6).map(float)


points = st.integers(0, 14).flatmap(lambda n: arrays(np.float64, (n, 2), elements=coarse))


@given(points)
def test_the_front_has_the_points_that_no_point_dominates(cloud):
    costs = cloud * [1.0, -1.0]
    expected = [not any(dominates(other, point) for other in costs) for point in costs]
    assert nondominated_mask(cloud).tolist() == expected


@given(points, st.randoms())
def test_permuting_the_points_permutes_the_front(cloud, random):
    order = list(range(len(cloud)))
    random.shuffle(order)
    assert nondominated_mask(cloud[order]).tolist() == nondominated_mask(cloud)[order].tolist()


@given(points, st.floats(0.1, 50), st.floats(-5, 5))
def test_scaling_keeps_the_front_and_scales_the_volume(cloud, scale, shift):
    moved = cloud * [scale, 1.0] + [shift, 0.0]
    assert nondominated_mask(moved).tolist() == nondominated_mask(cloud).tolist()
    reference = (7.0 * scale + shift, -1.0)
    assert hypervolume(moved, reference) == pytest.approx(scale * hypervolume(cloud, (7.0, -1.0)))


@given(points)
def test_each_rank_is_the_front_of_what_is_left(cloud):
    ranks = nondominated_sort(cloud)
    for rank in range(ranks.max(initial=-1) + 1):
        left = cloud[ranks >= rank]
        assert (nondominated_mask(left) == (ranks[ranks >= rank] == rank)).all()


@given(points)
def test_the_hypervolume_on_a_grid_is_the_number_of_dominated_cells(cloud):
    cells = np.stack(np.meshgrid(np.arange(7), np.arange(7), indexing="ij"), -1)
    # Cell (i, j) spans costs from i to i + 1 and accuracies from j − 1 to j.
    dominated = (cloud[:, None, None, :] * [1, -1] <= cells * [1, -1]).all(-1).any(0)
    assert hypervolume(cloud, (7.0, -1.0)) == pytest.approx(dominated.sum())


@given(points, st.tuples(coarse, coarse))
def test_a_further_point_never_lowers_the_hypervolume(cloud, extra):
    more = np.vstack([cloud, extra])
    assert hypervolume(more, (7.0, -1.0)) >= hypervolume(cloud, (7.0, -1.0)) - 1e-12


def test_edge_cases_stated_in_the_docstring():
    assert nondominated_mask(np.empty((0, 2))).tolist() == []
    assert hypervolume([], (1.0, 0.0)) == 0.0
    assert hypervolume([[0.25, 0.5]], (1.0, 0.0)) == pytest.approx(0.375)
    assert hypervolume([[0.25, 0.5]] * 3, (1.0, 0.0)) == pytest.approx(0.375)
    assert hypervolume([[1.0, 1.0], [2.0, 2.0]], (1.0, 0.0)) == 0.0
    assert nondominated_mask([[0, 1], [0, 1], [0, 0]]).tolist() == [True, True, False]
    assert nondominated_mask([[math.nan, 0], [5, 5]]).tolist() == [False, True]
    assert nondominated_sort([[math.nan, 0], [5, 5], [6, 4]]).tolist() == [2, 0, 1]
    assert hypervolume([[math.nan, 1.0], [0.5, 0.5]], (1.0, 0.0)) == pytest.approx(0.25)
    assert nondominated_mask([[0, -math.inf], [1, -math.inf]]).tolist() == [True, False]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        nondominated_mask([1.0, 2.0])
    with pytest.raises(ValueError, match="shape"):
        hypervolume([[1.0, 2.0]], (3.0, 3.0, 3.0))
    with pytest.raises(ValueError, match="shape"):
        nondominated_mask([[1.0, 2.0, 3.0]])


def test_the_unit_square_spans_three_decades_of_bytes_and_chance_to_one():
    square = unit_square([1e3, 1e6, 1e9, 31622.7766], [0.1, 1.0, 0.0, 0.55], scale=CostScale(1e6), classes=10)
    assert square == pytest.approx(np.array([[0, 0], [1, 1], [1, 0], [0.5, 0.5]]), abs=1e-6)


def test_the_axis_of_costs_begins_so_many_decades_below_its_reference():
    scale = CostScale(0.6, 2.0, "latency_ms")
    square = unit_square([0.006, 0.06, 0.6, 0.0001], [1.0] * 4, scale=scale, classes=10)
    assert square[:, 0] == pytest.approx([0.0, 0.5, 1.0, 0.0])


@given(st.lists(st.tuples(st.floats(1e-3, 1e9), st.floats(0, 1)), max_size=8), st.floats(1e-3, 1e3))
def test_normalised_hypervolume_does_not_depend_on_the_unit_of_cost(students, factor):
    costs, accuracies = zip(*students, strict=True) if students else ((), ())
    before, after = (
        normalised_hypervolume(np.array(costs) * unit, accuracies, scale=CostScale(50 * unit), classes=4)
        for unit in (1.0, factor)
    )
    assert after == pytest.approx(before)


def test_normalised_hypervolume_of_one_student():
    value = normalised_hypervolume([1e4], [0.91], scale=CostScale(1e7), classes=10)
    assert value == pytest.approx(0.9)
    assert normalised_hypervolume([2e7], [0.99], scale=CostScale(1e7), classes=10) == 0.0
    assert normalised_hypervolume([], [], scale=CostScale(1e7), classes=10) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.floats(0, 1)), max_size=12),
    st.floats(1e3, 1e9),
    st.integers(2, 200),
)
def test_normalised_hypervolume_is_in_the_unit_interval(students, big, classes):
    sizes, accuracies = [s for s, _ in students], [a for _, a in students]
    assert 0 <= normalised_hypervolume(sizes, accuracies, scale=CostScale(big), classes=classes) <= 1
