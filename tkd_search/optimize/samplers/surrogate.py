"""What a frugal search believes of students that were not trained: two Gaussian processes over its trials."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tkd_search.optimize.learning_curves import Extrapolation, extrapolate
from tkd_search.optimize.pareto import BYTES_AND_ACCURACY, nondominated_sort
from tkd_search.optimize.samplers.gaussian_process import Hyperparameters, Posterior, fit
from tkd_search.optimize.space_encoding import Array, Cube
from tkd_search.optimize.study_trial import StudyTrial


@dataclass(frozen=True)
class Surrogate:
    """Posteriors at a cube's features: of the log error at the common budget, and of log10 bytes."""

    error: Posterior
    size: Posterior


@dataclass(frozen=True)
class _Fit:
    """Hyperparameters of both models: of log error and of log10 bytes."""

    error: Hyperparameters
    size: Hyperparameters


FEWEST = 4
"""Lessons below which there is no model."""


def taught_by(trials: Sequence[StudyTrial], lessons: Extrapolation) -> list[StudyTrial]:
    """The trials that teach: those that reached a rung or failed, and have bytes."""
    return [t for t in trials if t.number in lessons.log_error and t.bytes]


def _settled(numbers: Sequence[int], running: Sequence[int], every: int) -> tuple[int, int]:
    """The widest range of numbers between multiples of ``every`` in which all trials are seen and ended.

    Numbers ascend without a gap, but that a capped history begins with single ones (the front) before the
    latest. The range moves by ``every`` at a time, so what is learnt from it can be kept for a while.
    """
    gaps = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    first = numbers[gaps[-1]] if gaps else numbers[0]
    if gaps:
        first = -(-first // every) * every
    return first, min([*running, numbers[-1] + 1]) // every * every


class SurrogateFitter:
    """Learns beliefs from trials. What it keeps between calls saves time and changes nothing.

    Args:
        cube: of the searched space.
        levels: epochs of the rungs.
        full_budget: epochs of a whole trial.
        memory: most trials in a model; the best half, the rest drawn at random.
        refit_every: finished trials between fits of the hyperparameters.
    """

    def __init__(
        self, cube: Cube, levels: Sequence[int], full_budget: int, *, memory: int, refit_every: int
    ) -> None:
        self._cube, self._levels, self._full_budget = cube, tuple(levels), full_budget
        self._memory, self._refit_every = memory, refit_every
        self._points: dict[int, Array] = {}
        self._fitted: tuple[tuple[tuple[int, int], ...], _Fit] | None = None

    def lessons(self, trials: Sequence[StudyTrial]) -> Extrapolation:
        """What every trial is expected to reach at a common budget."""
        return extrapolate(trials, self._levels, self._full_budget)

    def surrogate(
        self,
        trials: Sequence[StudyTrial],
        taught: list[StudyTrial],
        lessons: Extrapolation,
        running: list[StudyTrial],
        rng: np.random.Generator,
    ) -> Surrogate:
        """Surrogate after the trials that teach; running ones that do not are believed as predicted."""
        fitted = self._fitted_to(trials, taught, lessons)
        taught = self._remembered(taught, lessons, rng)
        inputs, errors, variances, sizes = self._observations(taught, lessons)
        groups, nothing = self._cube.leaf_of_feature, np.zeros(len(taught))
        size = Posterior(inputs, sizes, nothing, groups, fitted.size)
        error = Posterior(inputs, errors, variances, groups, fitted.error)
        if running:
            waiting = self.features(running)
            inputs = np.vstack([inputs, waiting])
            errors = np.append(errors, error.predict(waiting)[0])
            variances = np.append(variances, np.zeros(len(running)))
            error = Posterior(inputs, errors, variances, groups, fitted.error)
        return Surrogate(error, size)

    def _fitted_to(
        self, trials: Sequence[StudyTrial], taught: list[StudyTrial], lessons: Extrapolation
    ) -> _Fit:
        """Hyperparameters fitted to what the first trials told, those up to a number that all have ended.

        While these teach too little by themselves, all that teach are fitted to, each time.
        """
        running = [t.number for t in trials if t.state == "running" and t.number >= 0]
        first, end = _settled([t.number for t in trials], running, self._refit_every)
        group = [t for t in taught if first <= t.number < end]
        own = self.lessons(group)
        group = taught_by(group, own)
        if len(group) < FEWEST:
            return self._fit(taught, lessons)
        key = tuple((t.number, len(t.curve)) for t in group)
        if self._fitted is None or self._fitted[0] != key:
            self._fitted = (key, self._fit(group, own))
        return self._fitted[1]

    def _fit(self, trials: list[StudyTrial], lessons: Extrapolation) -> _Fit:
        kept = self._remembered(trials, lessons, np.random.default_rng(len(trials)))
        inputs, errors, variances, sizes = self._observations(kept, lessons)
        groups = self._cube.leaf_of_feature
        return _Fit(fit(inputs, errors, variances, groups), fit(inputs, sizes, np.zeros(len(kept)), groups))

    def _observations(
        self, trials: list[StudyTrial], lessons: Extrapolation
    ) -> tuple[Array, Array, Array, Array]:
        """Features [n, D], log errors, the variances of having carried them, log10 bytes [n]."""
        errors = np.array([lessons.log_error[t.number] for t in trials])
        variances = np.array([lessons.variance[t.number] for t in trials])
        return self.features(trials), errors, variances, np.log10([float(t.bytes or 1) for t in trials])

    def features(self, trials: Sequence[StudyTrial]) -> Array:
        """Model inputs [n, D] of the trials' configurations."""
        points = [self.point(t) for t in trials]
        return self._cube.features(np.array(points).reshape(-1, self._cube.dimensions))

    def point(self, trial: StudyTrial) -> Array:
        """The cube's point [L] of a trial's configuration."""
        if trial.number not in self._points:
            self._points[trial.number] = self._cube.point(trial.config)
        return self._points[trial.number]

    def _remembered(
        self, taught: list[StudyTrial], lessons: Extrapolation, rng: np.random.Generator
    ) -> list[StudyTrial]:
        """At most ``memory`` trials: the best half by rank, the rest at random."""
        most = self._memory
        if len(taught) <= most:
            return taught
        order = np.argsort(self.ranks(taught, lessons), kind="stable")
        kept = set(order[: most // 2].tolist())
        kept |= set(rng.choice(order[most // 2 :], most - most // 2, replace=False).tolist())
        return [taught[i] for i in sorted(kept)]

    def ranks(self, taught: list[StudyTrial], lessons: Extrapolation) -> list[int]:
        """Non-domination rank of each, by bytes and expected accuracy."""
        points = [[float(t.bytes or 1), lessons.accuracy(t.number)] for t in taught]
        return nondominated_sort(points, BYTES_AND_ACCURACY).tolist()
