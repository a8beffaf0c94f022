"""Accuracies of trials with different numbers of epochs, made comparable at a common budget.

Most trials are stopped early. The finished ones alone are too few for a sampler's model, and the last
accuracy of a stopped trial is too low for its configuration. Each estimator gives every trial one accuracy at
a common budget.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from tkd_search.optimize.study_trial import StudyTrial

Accuracies = dict[int, float]
"""Trial number → accuracy at the common budget, for every trial that the sampler uses."""

ERROR_OFFSET = 0.01
"""Added to an error before its logarithm, so that differences below a validation set's resolution vanish."""

_MIN_REACHED = 4
"""Trials that must have reached a budget, above the lowest, for it to be the common one."""

_EXTRAPOLATION_VARIANCE = 0.005
"""Variance of log error that each rung between the last one and the common budget adds."""


def full_budget_accuracies(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int
) -> Accuracies:
    """Return the accuracies of trials with the full budget, as samplers use by default."""
    return {
        **_zero_accuracies(trials),
        **{trial.number: trial.accuracy for trial in trials if trial.state == "complete"},
    }


def highest_rung_accuracies(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int, enough: int = 20
) -> Accuracies:
    """Return the accuracies at the highest budget that at least ``enough`` trials reached (as BOHB does)."""
    for budget in sorted({*levels, full_budget}, reverse=True):
        reached = {trial.number: trial.curve[budget] for trial in trials if budget in trial.curve}
        if len(reached) >= enough:
            return {**reached, **_zero_accuracies(trials)}
    return full_budget_accuracies(trials, levels, full_budget)


@dataclass(frozen=True)
class Extrapolation:
    """Every trial's expected error at a common budget.

    Attributes:
        log_error: trial number → log(1 − accuracy + ``ERROR_OFFSET``) at the common budget.
        variance: trial number → variance that the extrapolation from the trial's last rung has added.
        budget: the common budget in epochs, the full one as soon as enough trials support it.
    """

    log_error: Mapping[int, float]
    variance: Mapping[int, float]
    budget: int

    def accuracy(self, number: int) -> float:
        """Return the expected accuracy of a trial."""
        return min(max(1.0 + ERROR_OFFSET - math.exp(self.log_error[number]), 0.0), 1.0)


def extrapolate(trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int) -> Extrapolation:
    """Extrapolate every trial's last rung to a common budget: the highest that four trials reached.

    From a rung to the common budget the error shrinks by a factor: the median over the trials with records at
    both. The spread of their factors is the variance of the extrapolation. It takes one step instead of one
    per rung, because noise at a rung in between would count twice. Trials that went further are read at the
    common budget. A rung without any trial that also reached the common budget is not used (an earlier search
    may have had other rungs).

    A failed trial gets the error of the worst other trial. That keeps the sampler away from configurations
    that diverge or do not fit into memory; a larger error would distort the model elsewhere.
    """
    budgets = sorted({*levels, full_budget})
    enough = [b for b in budgets[1:] if sum(b in trial.curve for trial in trials) >= _MIN_REACHED]
    common = max(enough, default=budgets[0])
    lower = [budget for budget in budgets if budget < common]
    found = {budget: _step(trials, budget, common, len(lower) - i) for i, budget in enumerate(lower)}
    steps = {budget: step for budget, step in found.items() if step is not None}
    errors: dict[int, float] = {}
    variances: dict[int, float] = {}
    for trial in trials:
        reached = [b for b in budgets if b in trial.curve and (b == common or b in steps)]
        if reached and trial.state != "failed":
            shift, variance = steps.get(reached[-1], (0.0, 0.0))
            errors[trial.number] = _log_error(trial, reached[-1]) + shift
            variances[trial.number] = variance
    worst = max(errors.values(), default=None)
    if worst is not None:
        failed = [trial.number for trial in trials if trial.state == "failed"]
        errors |= dict.fromkeys(failed, worst)
        variances |= dict.fromkeys(failed, 0.0)
    return Extrapolation(errors, variances, common)


def _step(trials: Sequence[StudyTrial], low: int, high: int, rungs: int) -> tuple[float, float] | None:
    """Return median and variance of the change in log error between two budgets ``rungs`` rungs apart."""
    both = [t for t in trials if low in t.curve and high in t.curve]
    if not both:
        return None
    shifts = np.array([_log_error(t, high) - _log_error(t, low) for t in both])
    return float(np.median(shifts)), float(shifts.var()) + rungs * _EXTRAPOLATION_VARIANCE


def extrapolated_accuracies(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int
) -> Accuracies:
    """Return the extrapolated accuracy of every trial that reached a rung."""
    found = extrapolate(trials, levels, full_budget)
    return {**{number: found.accuracy(number) for number in found.log_error}, **_zero_accuracies(trials)}


def _zero_accuracies(trials: Sequence[StudyTrial]) -> Accuracies:
    """Return accuracy 0 for failed trials, and for students above a limit, which were not trained."""
    return {
        trial.number: 0.0
        for trial in trials
        if trial.state == "failed" or (trial.state == "stopped" and not trial.curve)
    }


AccuracyEstimator = Callable[[Sequence[StudyTrial], Sequence[int], int], Accuracies]
"""(trials, rungs' epochs, full budget in epochs) → comparable accuracies."""

AccuracyEstimatorName = Literal["extrapolated", "highest_rung", "full"]
ACCURACY_ESTIMATORS: Mapping[AccuracyEstimatorName, AccuracyEstimator] = MappingProxyType(
    {
        "full": full_budget_accuracies,
        "highest_rung": highest_rung_accuracies,
        "extrapolated": extrapolated_accuracies,
    }
)


@dataclass(frozen=True)
class Line:
    """Log error at the end as a linear function of log error at a rung.

    Attributes:
        centre: mean log error at the rung.
        height: expected log error at the end of a trial with that mean.
        slope: 1 where the error shrinks by the same factor for all, 0 where the two are unrelated.
        variance: of the log error at the end about the line.
        freedom: degrees of freedom of that variance.
    """

    centre: float
    height: float
    slope: float
    variance: float
    freedom: float

    def __call__(self, log_error: float) -> float:
        """Return the expected log error at the end."""
        return self.height + self.slope * (log_error - self.centre)


def fit_line(pairs: Sequence[tuple[float, float]]) -> Line:
    """Fit a line through pairs (accuracy at a rung, accuracy at the end), in log error.

    The slope is ridge-regressed towards 1, with the weight of four pairs of unit slope and a spread of .3,
    and limited to [0, 1.5]. Four prior observations of variance .08 keep the variance of few pairs from being
    too small. At most 5 degrees of freedom keep the tails heavy, because errors are counts of few images.
    """
    low = np.array([log_error(a) for a, _ in pairs])
    high = np.array([log_error(b) for _, b in pairs])
    centre, height = float(low.mean()), float(high.mean())
    x, y = low - centre, high - height
    prior = 4 * 0.3**2
    slope = min(max(float((x @ y + prior) / (x @ x + prior)), 0.0), 1.5)
    squares = float(((y - slope * x) ** 2).sum())
    freedom = len(pairs) + 2
    return Line(centre, height, slope, (squares + 4 * 0.08) / freedom, float(min(freedom, 5)))


def log_error(accuracy: float) -> float:
    """Return log(1 − accuracy + ``ERROR_OFFSET``), for an accuracy up to 1."""
    return math.log(max(1.0 - accuracy, 0.0) + ERROR_OFFSET)


def _log_error(trial: StudyTrial, epoch: int) -> float:
    return log_error(trial.curve[epoch])
