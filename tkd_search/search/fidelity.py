"""What a sampler learns from trials that did not have the full budget.

Most trials of a frugal search are stopped early. Told only of the finished ones a sampler starves; told
the raw accuracy of a stopped trial it takes a short training for a bad configuration. Here every trial
gets one comparable figure: the accuracy it would have at a common budget.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tkd_search.search.trials import StudyTrial

Lessons = dict[int, float]
"""Trial number → accuracy at the common budget, for every trial that teaches."""

ERROR_OFFSET = 0.01
"""Added to an error before its logarithm: differences far below a validation set's grain do not count."""

_CARRYING = 0.005


def learn_full(trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int) -> Lessons:
    """Only trials with the full budget teach (what samplers do by default)."""
    return {
        **_not_trained(trials),
        **{trial.number: trial.accuracy for trial in trials if trial.state == "complete"},
    }


def learn_highest_rung(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int, enough: int = 20
) -> Lessons:
    """The accuracies at the highest budget that at least ``enough`` trials have reached (as BOHB does)."""
    for budget in sorted({*levels, full_budget}, reverse=True):
        reached = {trial.number: trial.curve[budget] for trial in trials if budget in trial.curve}
        if len(reached) >= enough:
            return {**_not_trained(trials), **reached}
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
    """Carry every trial's last rung forward to a common budget.

    From one budget to the next the error shrinks by a factor, the median over the trials seen at both;
    the spread of their factors is the variance of having carried. A trial is carried as far as at least
    ``pairs`` trials support; trials that went further are read at that same budget.
    """
    budgets = sorted({*levels, full_budget})
    steps: list[tuple[float, float]] = []
    for low, high in pairwise(budgets):
        both = [t for t in trials if low in t.curve and high in t.curve]
        if len(both) < pairs:
            break
        shifts = np.array([_log_error(t, high) - _log_error(t, low) for t in both])
        steps.append((float(np.median(shifts)), float(shifts.var()) + _CARRYING))
    common = budgets[: len(steps) + 1]
    errors: dict[int, float] = {}
    variances: dict[int, float] = {}
    for trial in trials:
        reached = [i for i, budget in enumerate(common) if budget in trial.curve]
        if reached and trial.state != "failed":
            left = steps[reached[-1] :]
            errors[trial.number] = _log_error(trial, common[reached[-1]]) + sum(shift for shift, _ in left)
            variances[trial.number] = sum(variance for _, variance in left)
    return Extrapolation(errors, variances, common[-1])


def learn_extrapolated(trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int) -> Lessons:
    """Every trial that reached a rung teaches the accuracy it would have had in the end."""
    found = extrapolate(trials, levels, full_budget)
    return {**_not_trained(trials), **{number: found.accuracy(number) for number in found.log_error}}


def _not_trained(trials: Sequence[StudyTrial]) -> Lessons:
    """Students that broke a limit before their first epoch teach that they are worth nothing."""
    return {trial.number: 0.0 for trial in trials if trial.state == "stopped" and not trial.curve}


LEARNING: Mapping[str, Callable[[Sequence[StudyTrial], Sequence[int], int], Lessons]] = MappingProxyType(
    {"full": learn_full, "highest_rung": learn_highest_rung, "extrapolated": learn_extrapolated}
)


def rank_correlation(low: Sequence[float], high: Sequence[float]) -> float:
    """Spearman's rank correlation of accuracies at two budgets, NaN below three trials or without spread."""
    if len(low) < 3 or len(set(low)) < 2 or len(set(high)) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(low), _ranks(high))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return np.array([(array < v).sum() + ((array == v).sum() - 1) / 2 for v in array])


def _log_error(trial: StudyTrial, epoch: int) -> float:
    return math.log(max(1.0 - trial.curve[epoch], 0.0) + ERROR_OFFSET)
