"""The share of trained ones among near students."""

import math

import numpy as np
import pytest

from tkd_search.optimize.samplers.feasibility import Feasibility

NOBODY = np.empty((0, 2))


def at(*positions):
    return np.array([[position, 0.0] for position in positions])


def test_where_nothing_was_refused_all_may_be_asked_for():
    assert Feasibility(NOBODY, NOBODY)(at(0, 0.5)).tolist() == [1, 1]
    assert Feasibility(at(0.2), NOBODY)(at(0, 0.5)).tolist() == [1, 1]


def test_near_a_refused_student_few_and_far_from_all_none_are_doubted():
    share = Feasibility(at(0.0), at(1.0))(at(0.0, 1.0, 0.5))
    assert share == pytest.approx([1, 0.01 / 1.01, 1], abs=1e-6)


def test_nearer_students_count_more_and_each_counts():
    beside = math.exp(-0.5)  # one width away
    share = Feasibility(at(0.0), at(0.1))(at(0.05, 0.0))
    assert share[0] == pytest.approx((beside + 0.01) / (2 * beside + 0.01))
    assert share[1] == pytest.approx(1.01 / (1.01 + math.exp(-2)))
    assert Feasibility(at(0.0), at(0.1, 0.1))(at(0.05))[0] == pytest.approx(
        (beside + 0.01) / (3 * beside + 0.01)
    )
