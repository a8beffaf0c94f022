"""The share of trained students among similar ones."""

import math

import numpy as np
import pytest

from tkd_search.optimize.samplers.feasibility import Feasibility

NONE = np.empty((0, 2))


def at(*positions):
    return np.array([[position, 0.0] for position in positions])


def test_without_refused_students_the_share_is_one():
    assert Feasibility(NONE, NONE)(at(0, 0.5)).tolist() == [1, 1]
    assert Feasibility(at(0.2), NONE)(at(0, 0.5)).tolist() == [1, 1]


def test_the_share_is_small_near_a_refused_student_and_one_far_from_all():
    share = Feasibility(at(0.0), at(1.0))(at(0.0, 1.0, 0.5))
    assert share == pytest.approx([1, 0.01 / 1.01, 1], abs=1e-6)


def test_each_student_has_the_weight_of_its_distance():
    beside = math.exp(-0.5)  # one width away
    share = Feasibility(at(0.0), at(0.1))(at(0.05, 0.0))
    assert share[0] == pytest.approx((beside + 0.01) / (2 * beside + 0.01))
    assert share[1] == pytest.approx(1.01 / (1.01 + math.exp(-2)))
    assert Feasibility(at(0.0), at(0.1, 0.1))(at(0.05))[0] == pytest.approx(
        (beside + 0.01) / (3 * beside + 0.01)
    )
