"""Ranks the searched settings by how much they explain of accuracy at a given cost.

Each trial is compared at its last epoch with all trials that reached that epoch: its accuracy minus the usual
accuracy for its cost (a parabola in log cost), in standard deviations. So a setting that only makes students
costlier explains nothing, and early stopping has no effect. A random forest predicts that figure from the
settings. A setting's importance is the share of the variance that is lost when the setting is shuffled in
held-out trials (Breiman 2001).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tkd_search.report.figures import shown_trials
from tkd_search.results.records import SearchRecord, TrialRecord

LEAST_TRIALS = 12
_FOLDS = 5
_REPEATS = 10
_CLIP = 3.0


@dataclass(frozen=True, kw_only=True)
class Importance:
    """``share`` of the variance that is lost without the setting, ± ``error`` (standard error over folds)."""

    name: str
    share: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Importances:
    """``explained`` is the forest's held-out R²; near 0 the ranking means nothing."""

    explained: float
    ranking: tuple[Importance, ...]
    trials: int


def importances(record: SearchRecord) -> Importances | None:
    """Rank the searched settings, most important first; None below twelve trials or without settings."""
    trials = shown_trials(record)
    names = sorted({key for trial in trials for key in trial.config if _varies(key, trials)})
    if len(trials) < LEAST_TRIALS or not names:
        return None
    table = np.stack([_encode([trial.config.get(name) for trial in trials]) for name in names], 1)
    explained, shares = _permute(table, merit(trials))
    ranking = [
        Importance(
            name=name,
            share=float(shares[:, place].mean()),
            error=float(shares[:, place].std() / math.sqrt(len(shares))),
        )
        for place, name in enumerate(names)
    ]
    ranking.sort(key=lambda one: (-one.share, one.name))
    return Importances(explained=explained, ranking=tuple(ranking), trials=len(trials))


def merit(trials: Sequence[TrialRecord]) -> Any:
    """Return how far each trial is above the usual accuracy for its cost and epoch.

    Returns:
        float64 [trials], in standard deviations of the trials that reached the same epoch, within ±3.
    """
    costs = np.array([math.log10(trial.cost or 1) for trial in trials])
    reached = np.array([trial.epochs_trained for trial in trials])
    result = np.zeros(len(trials))
    for epoch in np.unique(reached):
        peers = reached >= epoch
        accuracy = np.array([_accuracy_at(t, epoch) for t in trials if t.epochs_trained >= epoch])
        rest = _above_usual(costs[peers], accuracy)
        spread = max(float(rest.std()), 1e-12)
        result[reached == epoch] = (rest / spread)[reached[peers] == epoch]
    return np.clip(result, -_CLIP, _CLIP)


def _accuracy_at(trial: TrialRecord, epoch: int) -> float:
    """Return validation accuracy at the last validated epoch up to ``epoch``."""
    return next((e.val_accuracy for e in reversed(trial.epochs) if e.epoch <= epoch), float("nan"))


def _above_usual(costs: Any, accuracy: Any) -> Any:
    """Return accuracy minus a parabola in cost; a line or a mean where trials or costs are few."""
    kinds = len(np.unique(costs))
    degree = 0 if kinds < 4 or len(costs) < 6 else 1 if len(costs) < 15 else 2
    middle = costs - costs.mean()
    usual = np.polynomial.polynomial.polyfit(middle, accuracy, degree)
    return accuracy - np.polynomial.polynomial.polyval(middle, usual)


def _permute(table: Any, response: Any) -> tuple[float, Any]:
    """Return held-out R² and, per fold, the R² lost by shuffling each column (array [folds, columns])."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    spread = max(float(response.var()), 1e-12)
    lost, error = [], np.zeros(len(response))
    for fold, (train, held) in enumerate(KFold(_FOLDS, shuffle=True, random_state=0).split(table)):
        forest = RandomForestRegressor(60, min_samples_leaf=2, random_state=fold, n_jobs=1)
        forest.fit(table[train], response[train])
        error[held] = (response[held] - forest.predict(table[held])) ** 2
        shuffled = _errors_shuffled(forest, table[held], response[held], np.random.default_rng(0))
        lost.append((shuffled - error[held].mean()) / spread)
    return 1.0 - float(error.mean()) / spread, np.array(lost)


def _errors_shuffled(forest: Any, table: Any, response: Any, rng: np.random.Generator) -> Any:
    """Return the mean squared error with each column shuffled: array [columns].

    All shuffles are predicted in one call. scikit-learn's ``permutation_importance`` calls the forest once
    per shuffle and column, which takes five times as long (9 s instead of 1.7 s for 24 settings and 26
    trials).
    """
    errors = []
    for column in range(table.shape[1]):
        copies = np.tile(table, (_REPEATS, 1, 1))  # [repeats, rows, columns]
        copies[:, :, column] = rng.permuted(copies[:, :, column], axis=1)
        predicted = forest.predict(copies.reshape(-1, table.shape[1])).reshape(_REPEATS, -1)
        errors.append(((predicted - response) ** 2).mean())
    return np.array(errors)


def _varies(key: str, trials: Sequence[TrialRecord]) -> bool:
    return len({repr(trial.config.get(key)) for trial in trials}) > 1


def _encode(values: Sequence[Any]) -> Any:
    """Return numbers unchanged, other values as the rank of their text, inactive ones as NaN."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in present):
        return np.array([math.nan if value is None else float(value) for value in values])
    ranks = {text: rank for rank, text in enumerate(sorted({str(value) for value in present}))}
    return np.array([math.nan if value is None else float(ranks[str(value)]) for value in values])
