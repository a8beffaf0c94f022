"""Gaussian-process regression: gradients, interpolation, lengths and noise."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from tkd_search.optimize.samplers.gaussian_process import (
    Hyperparameters,
    Posterior,
    _gram,
    _loss,
    _squared,
    fit,
)

RNG = np.random.default_rng(0)
INPUTS = RNG.random((40, 3))
TARGETS = np.sin(5 * INPUTS[:, 0]) + 0.3 * INPUTS[:, 1]
GROUPS = np.arange(3)
NO_NOISE = np.zeros(40)


def test_gradient_agrees_with_differences():
    distances = np.stack([_squared(INPUTS[:, leaf == GROUPS]) for leaf in range(3)])
    gram = _gram(INPUTS, INPUTS)
    centre = Hyperparameters.prior(3).vector
    scaled = (TARGETS - TARGETS.mean()) / TARGETS.std()
    known = np.full(40, 0.01)
    for vector in (centre, centre + 0.3 * RNG.standard_normal(6)):
        _, gradient = _loss(vector, distances, gram, scaled, known, centre)
        numeric = approx_fprime(vector, lambda v: _loss(v, distances, gram, scaled, known, centre)[0], 1e-6)
        assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_predictions_at_new_points_are_close():
    found = fit(INPUTS, TARGETS, NO_NOISE, GROUPS)
    fresh = RNG.random((200, 3))
    mean, deviation = Posterior(INPUTS, TARGETS, NO_NOISE, GROUPS, found).predict(fresh)
    truth = np.sin(5 * fresh[:, 0]) + 0.3 * fresh[:, 1]
    assert np.sqrt(((mean - truth) ** 2).mean()) < 0.1 * truth.std()
    assert (np.abs(mean - truth) < 4 * deviation + 0.02).mean() > 0.95


def test_leaves_that_matter_get_short_lengths():
    lengths = fit(INPUTS, TARGETS, NO_NOISE, GROUPS).lengths
    assert lengths[0] < lengths[1]
    assert lengths[0] < lengths[2]


def test_features_of_one_leaf_share_a_length():
    found = fit(INPUTS, TARGETS, NO_NOISE, np.array([0, 0, 1]))
    assert len(found.lengths) == 2


def test_uncertainty_is_small_at_the_data_and_large_away_from_it():
    found = fit(INPUTS, TARGETS, NO_NOISE, GROUPS)
    posterior = Posterior(INPUTS, TARGETS, NO_NOISE, GROUPS, found)
    at_data, away = posterior.predict(INPUTS)[1], posterior.predict(INPUTS + 5)[1]
    assert at_data.max() < 0.2 * away.min()


def test_observations_with_larger_known_noise_have_less_weight():
    inputs, targets = np.array([[0.2], [0.21], [0.8]]), np.array([1.0, -1.0, 0.0])
    given = Hyperparameters(np.array([0.0]), 0.0, -6.0, -6.0)
    groups = np.array([0])
    first_exact = Posterior(inputs, targets, np.array([0.0, 10.0, 0.0]), groups, given)
    second_exact = Posterior(inputs, targets, np.array([10.0, 0.0, 0.0]), groups, given)
    at = np.array([[0.2]])
    assert first_exact.predict(at)[0][0] > 0.8
    assert second_exact.predict(at)[0][0] < -0.8


def test_constant_targets_and_repeated_inputs_are_handled():
    inputs = np.repeat(RNG.random((3, 2)), 4, axis=0)
    found = fit(inputs, np.ones(12), np.zeros(12), np.arange(2))
    mean, deviation = Posterior(inputs, np.ones(12), np.zeros(12), np.arange(2), found).predict(inputs)
    assert mean == pytest.approx(np.ones(12))
    assert np.isfinite(deviation).all()


def test_the_linear_part_finds_the_sum_of_many_small_effects():
    """Each effect alone is too small to be told from noise by a length."""
    rng = np.random.default_rng(1)
    inputs, slopes = rng.random((100, 20)), rng.choice([-0.3, 0.3], 20)
    targets = inputs @ slopes + 0.3 * rng.standard_normal(100)
    groups, exact = np.arange(20), np.zeros(100)
    posterior = Posterior(inputs, targets, exact, groups, fit(inputs, targets, exact, groups))
    fresh = rng.random((300, 20))
    assert np.corrcoef(posterior.predict(fresh)[0], fresh @ slopes)[0, 1] > 0.6
    assert posterior.noise == pytest.approx(0.3, rel=0.35)
