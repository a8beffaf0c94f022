"""What mattered: how much each searched setting says about accuracy at a given size.

A random forest predicts a trial's validation accuracy from its settings **and** from its size and its
number of epochs. A setting's importance is how much of the explained variance goes when the setting is
shuffled in held-out trials (Breiman 2001; the importance is measured on folds the forest has not seen).
Size and epochs stay as they are, so a setting that only makes the student larger, or only was unlucky
to be stopped early, gets no credit for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tkd_search.records import SearchRecord, TrialRecord
from tkd_search.tracking.report.figures import shown_trials

LEAST_TRIALS = 12
_FOLDS = 5
_REPEATS = 10


@dataclass(frozen=True, kw_only=True)
class Importance:
    """``share`` of the variance of held-out accuracy lost without the setting, ± ``error`` over folds."""

    name: str
    share: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Importances:
    """``explained`` is the forest's held-out R²; near 0 the ranking below it means nothing."""

    explained: float
    ranking: tuple[Importance, ...]
    trials: int


def importances(record: SearchRecord, *, seed: int = 0) -> Importances | None:
    """Rank the searched settings, most important first; None below twelve trials or without settings."""
    trials = shown_trials(record)
    names = sorted({key for trial in trials for key in trial.config if _varies(key, trials)})
    if len(trials) < LEAST_TRIALS or not names:
        return None
    columns = [np.array([math.log10(max(trial.bytes, 1)) for trial in trials])]
    columns += [np.array([math.log2(len(trial.epochs)) for trial in trials])]
    columns += [_encode([trial.config.get(name) for trial in trials]) for name in names]
    table, accuracy = np.stack(columns, 1), np.array([trial.val_accuracy for trial in trials])
    explained, shares = _permute(table, accuracy, seed)
    ranking = [
        Importance(
            name=name,
            share=float(shares[:, place].mean()),
            error=float(shares[:, place].std() / math.sqrt(len(shares))),
        )
        for place, name in enumerate(names, start=2)
    ]
    ranking.sort(key=lambda one: (-one.share, one.name))
    return Importances(explained=explained, ranking=tuple(ranking), trials=len(trials))


def _permute(table: Any, accuracy: Any, seed: int) -> tuple[float, Any]:
    """Held-out R² and, per fold, the R² lost by shuffling each column: (float, array [folds, columns])."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    spread = max(float(accuracy.var()), 1e-12)
    lost, error = [], np.zeros(len(accuracy))
    for fold, (train, held) in enumerate(KFold(_FOLDS, shuffle=True, random_state=seed).split(table)):
        forest = RandomForestRegressor(60, min_samples_leaf=2, random_state=seed + fold, n_jobs=1)
        forest.fit(table[train], accuracy[train])
        error[held] = accuracy[held] - forest.predict(table[held])
        shuffled = permutation_importance(
            forest,
            table[held],
            accuracy[held],
            scoring="neg_mean_squared_error",
            n_repeats=_REPEATS,
            random_state=seed,
        )
        lost.append(shuffled.importances_mean / spread)
    return 1.0 - float((error**2).mean()) / spread, np.array(lost)


def _varies(key: str, trials: Sequence[TrialRecord]) -> bool:
    return len({repr(trial.config.get(key)) for trial in trials}) > 1


def _encode(values: Sequence[Any]) -> Any:
    """Numbers as they are, anything else as the rank of its text; missing (conditional) ones as NaN."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in present):
        return np.array([math.nan if value is None else float(value) for value in values])
    ranks = {text: rank for rank, text in enumerate(sorted({str(value) for value in present}))}
    return np.array([math.nan if value is None else float(ranks[str(value)]) for value in values])
