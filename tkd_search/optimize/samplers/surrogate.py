"""The surrogate model of the EHVI sampler: Gaussian processes of error and of cost over its trials."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tkd_search.optimize.learning_curves import Extrapolation, extrapolate
from tkd_search.optimize.pareto import nondominated_sort
from tkd_search.optimize.samplers.gaussian_process import Hyperparameters, Posterior, fit
from tkd_search.optimize.space_encoding import Array, Cube
from tkd_search.optimize.study_trial import StudyTrial


@dataclass(frozen=True)
class Surrogate:
    """Posteriors over a cube's features: of the log error at the common budget, and of log10 cost."""

    error: Posterior
    cost: Posterior


@dataclass(frozen=True)
class _Fit:
    """Hyperparameters of both models: of log error and of log10 cost."""

    error: Hyperparameters
    cost: Hyperparameters


MIN_TRIALS = 4
"""Usable trials below which there is no model."""


def usable_trials(trials: Sequence[StudyTrial], extrapolation: Extrapolation) -> list[StudyTrial]:
    """Return the trials of a model: those that reached a rung or failed, and have a cost."""
    return [t for t in trials if t.number in extrapolation.log_error and t.cost]


def _ended_range(numbers: Sequence[int], running: Sequence[int], every: int) -> tuple[int, int]:
    """Return the widest range of numbers between multiples of ``every`` in which all trials have ended.

    Numbers ascend without a gap, except that a capped history begins with single trials (the front) before
    the latest. The range moves in steps of ``every``, so a fit to it can be reused in between.
    """
    gaps = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    first = numbers[gaps[-1]] if gaps else numbers[0]
    if gaps:
        first = -(-first // every) * every
    return first, min([*running, numbers[-1] + 1]) // every * every


class SurrogateFitter:
    """Fits surrogates to trials. What it keeps between calls saves time and does not change results.

    Args:
        cube: of the searched space.
        levels: epochs of the rungs.
        full_budget: epochs of a whole trial.
        memory: maximum number of trials in a model: half of them the best, half drawn at random.
        refit_every: finished trials between fits of the hyperparameters.
    """

    def __init__(
        self, cube: Cube, levels: Sequence[int], full_budget: int, *, memory: int, refit_every: int
    ) -> None:
        self._cube, self._levels, self._full_budget = cube, tuple(levels), full_budget
        self._memory, self._refit_every = memory, refit_every
        self._points: dict[int, Array] = {}
        self._fitted: tuple[tuple[tuple[int, int], ...], _Fit] | None = None

    def extrapolation(self, trials: Sequence[StudyTrial]) -> Extrapolation:
        """Return every trial's expected error at a common budget."""
        return extrapolate(trials, self._levels, self._full_budget)

    def surrogate(
        self,
        trials: Sequence[StudyTrial],
        usable: list[StudyTrial],
        extrapolation: Extrapolation,
        running: list[StudyTrial],
        rng: np.random.Generator,
    ) -> Surrogate:
        """Return the surrogate of the usable trials, and of running ones with their predicted error."""
        fitted = self._hyperparameters(trials, usable, extrapolation)
        usable = self._subset(usable, extrapolation, rng)
        inputs, errors, variances, costs = self._observations(usable, extrapolation)
        groups, exact = self._cube.leaf_of_feature, np.zeros(len(usable))
        cost = Posterior(inputs, costs, exact, groups, fitted.cost)
        error = Posterior(inputs, errors, variances, groups, fitted.error)
        if running:
            features = self.features(running)
            inputs = np.vstack([inputs, features])
            errors = np.append(errors, error.predict(features)[0])
            variances = np.append(variances, np.zeros(len(running)))
            error = Posterior(inputs, errors, variances, groups, fitted.error)
        return Surrogate(error, cost)

    def _hyperparameters(
        self, trials: Sequence[StudyTrial], usable: list[StudyTrial], extrapolation: Extrapolation
    ) -> _Fit:
        """Return hyperparameters fitted to the first trials, up to a number below which all have ended.

        While these are too few, they are fitted to all usable trials, at every call.
        """
        running = [t.number for t in trials if t.state == "running" and t.number >= 0]
        first, end = _ended_range([t.number for t in trials], running, self._refit_every)
        group = [t for t in usable if first <= t.number < end]
        own = self.extrapolation(group)
        group = usable_trials(group, own)
        if len(group) < MIN_TRIALS:
            return self._fit(usable, extrapolation)
        key = tuple((t.number, len(t.curve)) for t in group)
        if self._fitted is None or self._fitted[0] != key:
            self._fitted = (key, self._fit(group, own))
        return self._fitted[1]

    def _fit(self, trials: list[StudyTrial], extrapolation: Extrapolation) -> _Fit:
        kept = self._subset(trials, extrapolation, np.random.default_rng(len(trials)))
        inputs, errors, variances, costs = self._observations(kept, extrapolation)
        groups = self._cube.leaf_of_feature
        return _Fit(fit(inputs, errors, variances, groups), fit(inputs, costs, np.zeros(len(kept)), groups))

    def _observations(
        self, trials: list[StudyTrial], extrapolation: Extrapolation
    ) -> tuple[Array, Array, Array, Array]:
        """Return features [n, D], log errors, the variances of their extrapolation, and log10 costs [n]."""
        errors = np.array([extrapolation.log_error[t.number] for t in trials])
        variances = np.array([extrapolation.variance[t.number] for t in trials])
        return self.features(trials), errors, variances, np.log10([float(t.cost or 1) for t in trials])

    def features(self, trials: Sequence[StudyTrial]) -> Array:
        """Return model inputs [n, D] of the trials' configurations."""
        points = [self.point(t) for t in trials]
        return self._cube.features(np.array(points).reshape(-1, self._cube.dimensions))

    def point(self, trial: StudyTrial) -> Array:
        """Return the cube's point [L] of a trial's configuration."""
        if trial.number not in self._points:
            self._points[trial.number] = self._cube.point(trial.config)
        return self._points[trial.number]

    def _subset(
        self, usable: list[StudyTrial], extrapolation: Extrapolation, rng: np.random.Generator
    ) -> list[StudyTrial]:
        """Return at most ``memory`` trials: half of them the best by rank, the rest at random."""
        most = self._memory
        if len(usable) <= most:
            return usable
        order = np.argsort(self.ranks(usable, extrapolation), kind="stable")
        kept = set(order[: most // 2].tolist())
        kept |= set(rng.choice(order[most // 2 :], most - most // 2, replace=False).tolist())
        return [usable[i] for i in sorted(kept)]

    def ranks(self, usable: list[StudyTrial], extrapolation: Extrapolation) -> list[int]:
        """Return the non-domination rank of each trial, by cost and expected accuracy."""
        points = [[float(t.cost or 1), extrapolation.accuracy(t.number)] for t in usable]
        return nondominated_sort(points).tolist()
