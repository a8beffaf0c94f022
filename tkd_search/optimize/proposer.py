"""Proposes the next configuration: start points first, then a sampler over a limited part of the study."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tkd_search.optimize.learning_curves import ACCURACY_ESTIMATORS, Accuracies, AccuracyEstimatorName
from tkd_search.optimize.pareto import CostScale, nondominated_mask
from tkd_search.optimize.samplers.create_sampler import DESIGNS, SamplerFactory, design_point, make_sampler
from tkd_search.optimize.samplers.ehvi import EHVISampler, EHVISettings
from tkd_search.optimize.space import Space
from tkd_search.optimize.student_costs import CostOf
from tkd_search.optimize.study_trial import StudyTrial, to_optuna
from tkd_search.optimize.view_storage import ViewStorage
from tkd_search.seeds import child_seed

HISTORY_CAP = 1_000
"""Most recent trials that a sampler uses, beside the front; its time grows with their number."""

_MAX_SKIPPED = 64
"""Quasi-random points that are drawn for one that was not tried; small spaces have few."""
_TPE_MIN_TRIALS = 30
"""Usable trials below which the EHVI sampler leaves no suggestion to TPE, which needs many."""


@dataclass(frozen=True, kw_only=True)
class ProposerSettings:
    """Settings of the sampler.

    Attributes:
        sampler: ehvi, tpe, nsga2, gp, random, qmc, or package.module:Class.
        options: further arguments of the sampler's constructor.
        startup: usable trials below which configurations are quasi-random. Default: 6 for ehvi, whose model
            knows exact costs and its own uncertainty, else 20.
        learning: full, highest_rung or extrapolated (see :mod:`learning_curves`).
        cap: most recent trials that the sampler uses, beside the front.
    """

    sampler: str = "ehvi"
    options: Mapping[str, Any] = field(default_factory=dict)
    startup: int | None = None
    learning: AccuracyEstimatorName = "extrapolated"
    cap: int = HISTORY_CAP

    @property
    def min_trials(self) -> int:
        """``startup``, or the sampler's default."""
        return (6 if self.sampler == "ehvi" else 20) if self.startup is None else self.startup


@dataclass(frozen=True)
class Proposal:
    """A flat configuration, and the attributes that the sampler set on it."""

    config: dict[str, Any]
    system: dict[str, Any] = field(default_factory=dict)


class Proposer:
    """Proposes configurations of a space; each depends on the seed, the trial's number and the history.

    Args:
        space: the searched leaves.
        settings: sampler, start and accuracy estimator.
        seed: root seed.
        levels: epochs of the rungs.
        full_budget: epochs of a whole trial.
        scale: of the costs, for samplers that compute hypervolume.
        classes: number of classes, for the same.
        cost_of: exact cost of a configuration, for the same.
    """

    def __init__(
        self,
        space: Space,
        settings: ProposerSettings,
        *,
        seed: int,
        levels: Sequence[int],
        full_budget: int,
        scale: CostScale | None = None,
        classes: int | None = None,
        cost_of: CostOf | None = None,
    ) -> None:
        self._space, self._settings, self._seed = space, settings, seed
        self._levels, self._full_budget = tuple(levels), full_budget
        self._storage = ViewStorage([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
        self._factory: SamplerFactory | None = None
        self._ehvi: EHVISampler | None = None
        self._tpe_share = 0.0
        if settings.sampler == "ehvi":  # which leaves some suggestions to TPE
            ehvi_settings = _ehvi_settings(settings.options)
            self._tpe_share, self._factory = ehvi_settings.tpe, make_sampler("tpe")
            self._ehvi = EHVISampler(
                space,
                levels=levels,
                full_budget=full_budget,
                scale=scale,
                classes=classes,
                cost_of=cost_of,
                settings=ehvi_settings,
            )
        elif settings.sampler not in DESIGNS:
            self._factory = make_sampler(settings.sampler, settings.options)
        self._frozen: dict[int, FrozenTrial] = {}

    def propose(
        self, number: int, trials: Sequence[StudyTrial], given: Mapping[str, Any] | None = None
    ) -> Proposal:
        """Return the configuration of trial ``number``.

        Args:
            number: position in the study, from 0.
            trials: all trials by number (earlier studies' are negative).
            given: fixed values; missing leaves are filled from a quasi-random point.
        """
        if given is not None:
            return self._design("qmc", number, given)
        if self._settings.sampler in DESIGNS:
            return self._design(self._settings.sampler, number, None)
        trials = _window(trials, self._settings.cap)
        estimator = "extrapolated" if self._ehvi is not None else self._settings.learning
        accuracies = ACCURACY_ESTIMATORS[estimator](trials, self._levels, self._full_budget)
        if len(accuracies) < self._settings.min_trials:
            return self._new_design(number, trials)
        seed = child_seed(self._seed, "sampler", number, bits=31)
        if self._ehvi is None or self._left_to_tpe(number, len(accuracies)):
            assert self._factory is not None
            self._storage.show(self._view(trials, accuracies), number)
            proposal = self._ask(self._factory(seed))
            if self._ehvi is None or self._ehvi.accepts(proposal.config, trials):
                return proposal
        config = self._ehvi.suggest(trials, seed)
        return self._new_design(number, trials) if config is None else Proposal(config)

    def _left_to_tpe(self, number: int, usable: int) -> bool:
        """Return whether TPE suggests this trial in place of the EHVI sampler."""
        if usable < _TPE_MIN_TRIALS:
            return False
        return np.random.default_rng(child_seed(self._seed, "partner", number)).random() < self._tpe_share

    def _new_design(self, number: int, trials: Sequence[StudyTrial]) -> Proposal:
        """Return the first quasi-random point from ``number`` on whose configuration was not tried."""
        tried = [trial.config for trial in trials if trial.number >= 0]
        points = (self._design("qmc", number + skipped, None) for skipped in range(_MAX_SKIPPED))
        first = self._design("qmc", number, None)
        return next((point for point in points if point.config not in tried), first)

    def _design(self, name: str, number: int, given: Mapping[str, Any] | None) -> Proposal:
        seed = child_seed(self._seed, "design", bits=31)
        point = design_point(name, number, len(self._space.leaves), seed)
        return Proposal(self._space.at(point.tolist(), given))

    def _ask(self, sampler: optuna.samplers.BaseSampler) -> Proposal:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.load_study(study_name="view", storage=self._storage, sampler=sampler)
            trial = study.ask()
            config = self._space.suggest(trial)
        return Proposal(config, dict(self._storage.get_trial(trial._trial_id).system_attrs))

    def _view(self, trials: Sequence[StudyTrial], accuracies: Accuracies) -> list[FrozenTrial]:
        """Return the usable trials with comparable values and the running ones without, oldest first."""
        shown = [t for t in trials if t.number in accuracies or t.state == "running"]
        frozen = [self._freeze(t, accuracies.get(t.number)) for t in shown]
        self._frozen = {trial.number: trial for trial in frozen}
        return frozen

    def _freeze(self, trial: StudyTrial, accuracy: float | None) -> FrozenTrial:
        """Return a trial for the sampler: with log10(cost) and a comparable accuracy, or as running."""
        frozen = self._frozen.get(trial.number)
        if frozen is None:
            frozen = to_optuna(trial, self._space)
            frozen._trial_id = trial.number
        if accuracy is None or trial.cost is None:
            frozen.state, frozen.values = TrialState.RUNNING, None
        else:
            frozen.state = TrialState.COMPLETE
            frozen.values = [float(np.log10(trial.cost)), accuracy]
        return frozen


def _window(trials: Sequence[StudyTrial], cap: int) -> Sequence[StudyTrial]:
    """Return the latest ``cap`` trials, and the older ones that run or are on the front."""
    if len(trials) <= cap:
        return trials
    old = trials[:-cap]
    complete = [t for t in trials if t.state == "complete"]
    mask = nondominated_mask([[t.cost or 0, t.accuracy] for t in complete])
    front = {t.number for t, on_front in zip(complete, mask, strict=True) if on_front}
    return [*(t for t in old if t.number in front or t.state == "running"), *trials[-cap:]]


def _ehvi_settings(options: Mapping[str, Any]) -> EHVISettings:
    try:
        return EHVISettings(**options)
    except TypeError as error:
        raise ValueError(f"sampler ehvi: {error}") from error
