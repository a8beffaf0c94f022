"""What a sampler learns from trials that did not have the full budget.

Most trials of a frugal search are stopped early. Told only of the finished ones a sampler starves; told
the raw accuracy of a stopped trial it takes a short training for a bad configuration. Here every trial
gets one comparable figure: the accuracy it would have at a common budget.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tkd_search.optimize.study_trial import StudyTrial

Lessons = dict[int, float]
"""Trial number → accuracy at the common budget, for every trial that teaches."""

ERROR_OFFSET = 0.01
"""Added to an error before its logarithm: differences far below a validation set's grain do not count."""

_CARRYING = 0.005


def learn_full(trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int) -> Lessons:
    """Only trials with the full budget teach (what samplers do by default)."""
    return {
        **_worthless(trials),
        **{trial.number: trial.accuracy for trial in trials if trial.state == "complete"},
    }


def learn_highest_rung(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int, enough: int = 20
) -> Lessons:
    """The accuracies at the highest budget that at least ``enough`` trials have reached (as BOHB does)."""
    for budget in sorted({*levels, full_budget}, reverse=True):
        reached = {trial.number: trial.curve[budget] for trial in trials if budget in trial.curve}
        if len(reached) >= enough:
            return {**reached, **_worthless(trials)}
    return learn_full(trials, levels, full_budget)


@dataclass(frozen=True)
class Extrapolation:
    """What every trial is expected to reach at a common budget.

    Attributes:
        log_error: trial number → log(1 − accuracy + ``ERROR_OFFSET``) at the common budget.
        variance: trial number → variance that carrying a trial's last rung forward has added.
        budget: the common budget in epochs, the full one as soon as enough trials support it.
    """

    log_error: Mapping[int, float]
    variance: Mapping[int, float]
    budget: int

    def accuracy(self, number: int) -> float:
        """The expected accuracy of a trial."""
        return min(max(1.0 + ERROR_OFFSET - math.exp(self.log_error[number]), 0.0), 1.0)


def extrapolate(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int, pairs: int = 4
) -> Extrapolation:
    """Carry every trial's last rung forward to a common budget: the highest that ``pairs`` trials reached.

    From a rung to the common budget the error shrinks by a factor, the median over the trials seen at
    both; the spread of their factors is the variance of having carried. In one step, not from rung to
    rung: what is noise at a rung in between would count twice. Trials that went further are read at the
    common budget. A rung at which nobody was seen who reached it (an earlier search had other rungs) tells
    nothing. A trial that failed teaches as much as the worst of the others: enough to keep away from what
    diverges or does not fit into memory, without an error so large that it bends the model elsewhere.
    """
    budgets = sorted({*levels, full_budget})
    enough = [b for b in budgets[1:] if sum(b in trial.curve for trial in trials) >= pairs]
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
    """Median and variance of the change in log error between two budgets so many rungs apart."""
    both = [t for t in trials if low in t.curve and high in t.curve]
    if not both:
        return None
    shifts = np.array([_log_error(t, high) - _log_error(t, low) for t in both])
    return float(np.median(shifts)), float(shifts.var()) + rungs * _CARRYING


def learn_extrapolated(trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int) -> Lessons:
    """Every trial that reached a rung teaches the accuracy it would have had in the end."""
    found = extrapolate(trials, levels, full_budget)
    return {**{number: found.accuracy(number) for number in found.log_error}, **_worthless(trials)}


def _worthless(trials: Sequence[StudyTrial]) -> Lessons:
    """Trials that failed, and students that broke a limit before their first epoch, are worth nothing."""
    return {
        trial.number: 0.0
        for trial in trials
        if trial.state == "failed" or (trial.state == "stopped" and not trial.curve)
    }


LEARNING: Mapping[str, Callable[[Sequence[StudyTrial], Sequence[int], int], Lessons]] = MappingProxyType(
    {"full": learn_full, "highest_rung": learn_highest_rung, "extrapolated": learn_extrapolated}
)


@dataclass(frozen=True)
class Line:
    """Log error at the end as a linear function of log error at a rung.

    Attributes:
        centre: mean log error at the rung.
        height: expected log error at the end of a trial there.
        slope: 1 where the error shrinks by the same factor for all, 0 where the rung tells nothing.
        variance: of the log error at the end about the line.
        freedom: degrees of freedom of that variance.
    """

    centre: float
    height: float
    slope: float
    variance: float
    freedom: float

    def __call__(self, log_error: float) -> float:
        """Expected log error at the end."""
        return self.height + self.slope * (log_error - self.centre)


def fit_line(pairs: Sequence[tuple[float, float]]) -> Line:
    """The line through pairs (accuracy at a rung, accuracy at the end), in log error.

    The slope is ridge-regressed towards 1, as if four pairs with unit slope had been seen at a spread of
    .3, and kept in [0, 1.5]. Four prior observations of variance .08 keep few pairs from looking certain,
    and at most 5 degrees of freedom a tail from looking thin: errors are counts of few images.
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


def rank_correlation(low: Sequence[float], high: Sequence[float]) -> float:
    """Spearman's rank correlation of accuracies at two budgets, NaN below three trials or without spread."""
    if len(low) < 3 or len(set(low)) < 2 or len(set(high)) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(low), _ranks(high))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return np.array([(array < v).sum() + ((array == v).sum() - 1) / 2 for v in array])


def log_error(accuracy: float) -> float:
    """log(1 − accuracy + ``ERROR_OFFSET``), for an accuracy up to 1."""
    return math.log(max(1.0 - accuracy, 0.0) + ERROR_OFFSET)


def _log_error(trial: StudyTrial, epoch: int) -> float:
    return log_error(trial.curve[epoch])
