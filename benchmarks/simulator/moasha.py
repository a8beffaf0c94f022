"""syne-tune's MOASHA from PyPI, unchanged, behind the interface of a simulated search.

Optional: ``pip install syne-tune``.
"""

import datetime
import random
from typing import Any

import numpy as np

from tkd_search.optimize.pruners.base import FIRST_RUNGS, Continue, Decision, RungRecord, Stop, rung_levels
from tkd_search.optimize.space import Space
from tkd_search.optimize.study import Suggestion
from tkd_search.optimize.study_trial import StudyTrial, trial_name


def installed() -> bool:
    """Return whether syne-tune can be imported."""
    try:
        import syne_tune.optimizer.schedulers.multiobjective.moasha  # noqa: F401
    except ImportError:
        return False
    return True


class _Points:
    """Has the interface of a syne-tune distribution; a sample is a whole configuration of the space."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng([seed, 11])

    def sample(self) -> dict[str, Any]:
        return self._space.at(self._rng.random(len(self._space.leaves)).tolist())


class MoashaStudy:
    """Has the interface of a ``SearchStudy``; MOASHA suggests and decides."""

    def __init__(self, space: Space, full_budget: int, seed: int) -> None:
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        # MOASHA draws its brackets from the global random state.
        np.random.seed(seed)
        random.seed(seed)
        self._scheduler = MOASHA(
            {"config": _Points(space, seed)},
            metrics=["log_bytes", "error"],
            time_attr="epoch",
            max_t=full_budget,
            grace_period=rung_levels(full_budget, FIRST_RUNGS)[0],
            reduction_factor=3,
            random_seed=seed,
        )
        self._full_budget = full_budget
        self._syne_tune_trials: dict[str, Any] = {}
        self._trials: dict[str, StudyTrial] = {}

    def ask(self) -> Suggestion:
        """Return MOASHA's next trial."""
        from syne_tune.backend.trial_status import Trial

        number = len(self._trials)
        suggestion = self._scheduler.suggest()
        assert suggestion is not None
        config = suggestion.config["config"]
        trial_id = trial_name(number)
        trial = Trial(number, suggestion.config, datetime.datetime.now())
        self._scheduler.on_trial_add(trial)
        self._syne_tune_trials[trial_id] = trial
        self._trials[trial_id] = StudyTrial(number=number, storage_id=number, config=config)
        return Suggestion(trial_id, number, config)

    def report(self, trial_id: str, record: RungRecord) -> Decision:
        """Return MOASHA's decision; it gets every epoch and selects its own rungs."""
        result = {
            "epoch": record.epoch,
            "log_bytes": float(np.log10(record.cost)),
            "error": 1.0 - record.accuracy,
        }
        if record.epoch >= self._full_budget:
            self._scheduler.on_trial_complete(self._syne_tune_trials[trial_id], result)
            return Continue()
        answer = self._scheduler.on_trial_result(self._syne_tune_trials[trial_id], result)
        return Stop("MOASHA") if answer == "STOP" else Continue()

    def complete(self, trial_id: str, values: tuple[float, float] | None = None) -> None:
        """Record that a trial is complete."""
        self._end(trial_id, "complete")

    def prune(self, trial_id: str, values: tuple[float, float] | None, reason: str) -> None:
        """Record that a trial was stopped, also in MOASHA."""
        self._scheduler.on_trial_remove(self._syne_tune_trials[trial_id])
        self._end(trial_id, "stopped")

    def trials(self, *states: str) -> tuple[StudyTrial, ...]:
        """Return the trials in the given states, or all."""
        return tuple(t for t in self._trials.values() if not states or t.state in states)

    def _end(self, trial_id: str, state: Any) -> None:
        from dataclasses import replace

        self._trials[trial_id] = replace(self._trials[trial_id], state=state)
