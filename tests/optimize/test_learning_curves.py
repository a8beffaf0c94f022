"""Comparable accuracies of trials with different numbers of epochs."""

import math

import numpy as np
import pytest

from tkd_search.optimize.learning_curves import (
    ACCURACY_ESTIMATORS,
    ERROR_OFFSET,
    extrapolate,
    extrapolated_accuracies,
    fit_line,
    full_budget_accuracies,
    highest_rung_accuracies,
)
from tkd_search.optimize.study_trial import StudyTrial

LEVELS, BUDGET = (3, 9), 27


def trial(number, curve, state="stopped"):
    return StudyTrial(number=number, storage_id=number, config={}, state=state, cost=1000, curve=dict(curve))


def whole(number, errors=(0.4, 0.2, 0.1)):
    curve = {budget: 1 - error for budget, error in zip((3, 9, 27), errors, strict=True)}
    return trial(number, curve, "complete")


def test_a_whole_trial_has_the_accuracy_it_reached():
    trials = [whole(i, (0.4, 0.2, 0.1 + i / 100)) for i in range(6)]
    found = extrapolate(trials, LEVELS, BUDGET)
    assert found.budget == 27
    assert [found.accuracy(i) for i in range(6)] == pytest.approx([0.9 - i / 100 for i in range(6)])
    assert set(found.variance.values()) == {0}


def test_stopped_trials_are_extrapolated_by_the_factor_of_the_others():
    trials = [*(whole(i) for i in range(5)), trial(9, {3: 0.6}), trial(10, {3: 0.6, 9: 0.7})]
    found = extrapolate(trials, LEVELS, BUDGET)
    assert found.accuracy(9) == pytest.approx(0.9)
    factor = (0.1 + ERROR_OFFSET) / (0.2 + ERROR_OFFSET)
    assert math.exp(found.log_error[10]) == pytest.approx((0.3 + ERROR_OFFSET) * factor)
    assert found.variance[9] > found.variance[10] > 0


def test_extrapolation_keeps_the_order_within_a_rung():
    trials = [*(whole(i) for i in range(5)), *(trial(10 + i, {3: 0.3 + i / 20}) for i in range(6))]
    accuracies = extrapolated_accuracies(trials, LEVELS, BUDGET)
    extrapolated = [accuracies[10 + i] for i in range(6)]
    assert extrapolated == sorted(extrapolated)


def test_without_enough_whole_trials_the_common_budget_is_lower():
    trials = [*(trial(i, {3: 0.6, 9: 0.8}, "running") for i in range(5)), whole(8), trial(9, {3: 0.5})]
    found = extrapolate(trials, LEVELS, BUDGET)
    assert found.budget == 9
    assert found.accuracy(8) == pytest.approx(0.8)
    assert set(found.log_error) == {0, 1, 2, 3, 4, 8, 9}


def test_without_enough_trials_at_any_rung_the_first_is_the_common_budget():
    found = extrapolate([trial(0, {3: 0.6, 9: 0.8}), trial(1, {3: 0.5})], LEVELS, BUDGET)
    assert found.budget == 3
    assert [found.accuracy(i) for i in (0, 1)] == pytest.approx([0.6, 0.5])


def test_trials_without_a_record_at_a_rung_are_not_used():
    trials = [whole(0), trial(2, {}, "running"), trial(3, {1: 0.5}, "running")]
    assert set(extrapolate(trials, LEVELS, BUDGET).log_error) == {0}
    assert set(extrapolated_accuracies(trials, LEVELS, BUDGET)) == {0}


def test_an_untrained_student_above_a_limit_has_accuracy_zero():
    assert extrapolated_accuracies([whole(0), trial(1, {})], LEVELS, BUDGET)[1] == 0


@pytest.mark.parametrize("accuracy", [0.99, 0.01])
def test_a_failed_trial_is_extrapolated_to_the_worst_error_of_the_others(accuracy):
    trials = [*(whole(i, (0.4, 0.2, 0.1 + i / 100)) for i in range(5)), trial(9, {3: accuracy}, "failed")]
    found = extrapolate(trials, LEVELS, BUDGET)
    assert found.accuracy(9) == pytest.approx(found.accuracy(4))
    assert found.variance[9] == 0
    assert extrapolate([trial(0, {}, "failed")], LEVELS, BUDGET).log_error == {}


@pytest.mark.parametrize("estimate", ACCURACY_ESTIMATORS.values())
def test_a_failed_trial_has_accuracy_zero_whatever_it_reached(estimate):
    trials = [*(whole(i) for i in range(30)), trial(30, {3: 0.99, 9: 0.99}, "failed")]
    assert estimate(trials, LEVELS, BUDGET)[30] == 0


def test_the_highest_rung_with_enough_trials_is_used():
    trials = [*(trial(i, {3: 0.5}) for i in range(10)), *(trial(20 + i, {3: 0.6, 9: 0.7}) for i in range(5))]
    assert set(highest_rung_accuracies(trials, LEVELS, BUDGET, enough=5).values()) == {0.7}
    assert len(highest_rung_accuracies(trials, LEVELS, BUDGET, enough=6)) == 15


def test_full_uses_whole_trials_only():
    assert full_budget_accuracies([whole(0), trial(1, {3: 0.9})], LEVELS, BUDGET) == {0: pytest.approx(0.9)}


@pytest.mark.parametrize("estimate", ACCURACY_ESTIMATORS.values())
def test_without_trials_there_are_no_accuracies(estimate):
    assert estimate([], LEVELS, BUDGET) == {}


def line_through(low, high):
    """Return the line fitted to accuracies with these log errors."""
    low, high = (1 + ERROR_OFFSET - np.exp(errors) for errors in (low, high))
    return fit_line(list(zip(low, high, strict=True)))


def test_errors_that_shrink_by_one_factor_give_slope_one():
    line = line_through([-1.0, -0.5, -2.0], [-1.7, -1.2, -2.7])
    assert line.slope == pytest.approx(1)
    assert line(-3.0) == pytest.approx(-3.7)
    assert line.variance == pytest.approx(4 * 0.08 / 5), "the prior variance only"


def test_the_slope_has_a_prior_of_four_pairs_with_unit_slope():
    low, high = np.array([-1.0, -0.4, -0.1]), np.array([-1.3, -1.2, -1.0])
    x, y = low - low.mean(), high - high.mean()
    inputs, outputs = (np.append(values, [0.3] * 4) for values in (x, y))
    (slope,) = np.linalg.lstsq(inputs[:, None], outputs)[0]
    line = line_through(low, high)
    assert line.slope == pytest.approx(slope)
    assert line.variance == pytest.approx((((y - slope * x) ** 2).sum() + 4 * 0.08) / 5)


def test_the_slope_is_within_its_bounds_and_degrees_of_freedom_are_at_most_five():
    low = np.linspace(-3, -0.1, 30)
    assert line_through(low, -low - 4).slope == 0
    assert line_through(low, 2 * low).slope == 1.5
    assert [line_through(low[:n], low[:n]).freedom for n in (2, 30)] == [4, 5]
