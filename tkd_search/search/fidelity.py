"""What a sampler learns from trials that did not have the full budget.

Most trials of a frugal search are stopped early. Told only of the finished ones a sampler starves; told
the raw accuracy of a stopped trial it takes a short training for a bad configuration. Here every trial
gets one comparable figure: the accuracy it would have at a common budget.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tkd_search.search.trials import StudyTrial

Lessons = dict[int, float]
"""Trial number → accuracy at the common budget, for every trial that teaches."""

_LEAST_ERROR = 1e-3


def learn_full(trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int) -> Lessons:
    """Only trials with the full budget teach (what samplers do by default)."""
    return {trial.number: trial.accuracy for trial in trials if trial.state == "complete"}


def learn_highest_rung(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int, enough: int = 20
) -> Lessons:
    """The accuracies at the highest budget that at least ``enough`` trials have reached (as BOHB does)."""
    for budget in sorted({*levels, full_budget}, reverse=True):
        reached = {trial.number: trial.curve[budget] for trial in trials if budget in trial.curve}
        if len(reached) >= enough:
            return reached
    return learn_full(trials, levels, full_budget)


def learn_extrapolated(
    trials: Sequence[StudyTrial], levels: Sequence[int], full_budget: int, pairs: int = 4
) -> Lessons:
    """Every trial that reached a rung teaches the accuracy it would have had in the end.

    From one budget to the next the error 1 − accuracy shrinks by a factor, the median over the trials
    seen at both. A trial's last rung is carried upwards by these factors as far as at least ``pairs``
    trials support them; trials that went further are read at that same budget.
    """
    budgets = sorted({*levels, full_budget})
    factors: list[float] = []
    for low, high in pairwise(budgets):
        both = [t for t in trials if low in t.curve and high in t.curve]
        if len(both) < pairs:
            break
        factors.append(float(np.median([_error(t, high) / _error(t, low) for t in both])))
    common = len(factors)
    lessons: Lessons = {}
    for trial in trials:
        reached = [i for i, budget in enumerate(budgets[: common + 1]) if budget in trial.curve]
        if reached and trial.state != "failed":
            last = reached[-1]
            lessons[trial.number] = 1.0 - _error(trial, budgets[last]) * math.prod(factors[last:common])
    return lessons


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


def _error(trial: StudyTrial, epoch: int) -> float:
    return max(1.0 - trial.curve[epoch], _LEAST_ERROR)
