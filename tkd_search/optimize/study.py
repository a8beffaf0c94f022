"""The study: every trial, its records at the rungs and its end, on durable storage.

It is an Optuna study with two objectives (cost minimised, validation accuracy maximised), so Optuna's own
tools can read it. A trial with the full budget is COMPLETE, a stopped one PRUNED (its figures are in an
attribute), a failed one FAIL. The records at the rungs are stored on the trials; applying the pruner to them
in order of arrival reproduces every stop.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from tkd_search.optimize.history import check_enqueued, create_or_load, earlier_trials, renumber, rungs_of
from tkd_search.optimize.pareto import CostScale
from tkd_search.optimize.proposer import Proposer, ProposerSettings
from tkd_search.optimize.pruners.base import Continue, Decision, Pruner, RungRecord, Stop
from tkd_search.optimize.pruners.never import Never
from tkd_search.optimize.space import Space
from tkd_search.optimize.student_costs import CostOf
from tkd_search.optimize.study_storage import open_storage
from tkd_search.optimize.study_trial import (
    OPTUNA_STATES,
    PROGRESS,
    StudyTrial,
    from_optuna,
    share_distributions,
    to_optuna,
)
from tkd_search.results.records import TrialState

Adjust = Callable[[dict[str, Any]], dict[str, Any]]
"""Proposed configuration → the configuration that is run."""

_NOT_A_NUMBER = "validation accuracy is not a number"


@dataclass(frozen=True)
class Suggestion:
    """A trial to run.

    Attributes:
        trial_id: its name, such as ``t0007``.
        number: its position in the study, from 0.
        config: flat configuration, active searched leaves only.
        stop: the pruner's decision to stop an unfinished trial, where the last driver died before it could
            end the trial. Such a trial must be pruned with this reason, not run.
    """

    trial_id: str
    number: int
    config: dict[str, Any]
    stop: Stop | None = None


__all__ = ["SearchStudy", "Suggestion", "earlier_trials"]


class SearchStudy:
    """Creates trials, records their reports and decides at rungs.

    All of the storage is kept in memory too, and written through. One process at a time may use a study; the
    driver's lock ensures it. Not thread-safe.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_id: int,
        *,
        space: Space,
        pruner: Pruner,
        full_budget: int,
        proposer: Proposer,
        enqueue: Sequence[Mapping[str, Any]] = (),
        earlier: Sequence[StudyTrial] = (),
        adjust: Adjust | None = None,
    ) -> None:
        """Use :meth:`open`."""
        self._storage, self._study_id = storage, study_id
        self._space, self._pruner, self._proposer = space, pruner, proposer
        self._full_budget, self._distributions = full_budget, space.to_optuna()
        self._enqueue, self._adjust = tuple(enqueue), adjust
        self._earlier = renumber(earlier, space)
        stored = storage.get_all_trials(study_id, deepcopy=False)
        self._trials = {trial.trial_id: trial for trial in map(from_optuna, stored)}
        self._rungs = rungs_of(self._trials.values())
        self._arrivals = sum(len(records) for records in self._rungs.values())
        self._sees_finished = bool(getattr(pruner, "sees_finished", False))

    @classmethod
    def open(
        cls,
        name: str,
        storage: str | Path | BaseStorage | None,
        *,
        space: Space,
        full_budget: int,
        pruner: Pruner | None = None,
        seed: int = 0,
        proposer: ProposerSettings | None = None,
        enqueue: Sequence[Mapping[str, Any]] = (),
        earlier: Sequence[StudyTrial] = (),
        scale: CostScale | None = None,
        classes: int | None = None,
        cost_of: CostOf | None = None,
        adjust: Adjust | None = None,
    ) -> "SearchStudy":
        """Create a study, or open the one of that name.

        Args:
            name: name of the study in the storage.
            storage: path of a journal file, an Optuna URL, an open storage, or None for memory.
            space: the searched leaves.
            full_budget: epochs of a whole trial.
            pruner: decides at the rungs; None stops no trial.
            seed: root seed of all suggestions.
            proposer: sampler, start points and learning.
            enqueue: configurations tried first, in this order; missing leaves are filled from a quasi-random
                point.
            earlier: trials of earlier studies for the sampler (see :func:`earlier_trials`).
            scale: of the costs, for samplers that compute hypervolume; default: bytes, without a reference.
            classes: number of classes, for the same.
            cost_of: exact cost of a configuration, for the same; without it costs are predicted.
            adjust: maps a proposal to the configuration that is run, for instance with K limited to the
                number of candidates; the study records the result, which must be in the space.

        Raises:
            ValueError: unknown sampler, or a value in ``enqueue`` outside the space.
        """
        check_enqueued(enqueue, space)
        opened = storage if isinstance(storage, BaseStorage) else open_storage(storage)
        pruner = pruner or Never()
        proposing = Proposer(
            space,
            proposer or ProposerSettings(),
            seed=seed,
            levels=pruner.levels,
            full_budget=full_budget,
            scale=scale,
            classes=classes,
            cost_of=cost_of,
        )
        return cls(
            opened,
            create_or_load(opened, name, scale.unit if scale else "bytes"),
            space=space,
            pruner=pruner,
            full_budget=full_budget,
            proposer=proposing,
            enqueue=enqueue,
            earlier=earlier,
            adjust=adjust,
        )

    def ask(self) -> Suggestion:
        """Create a trial: enqueued configurations first, then start points, then the sampler's."""
        number = len(self._trials)
        given = self._enqueue[number] if number < len(self._enqueue) else None
        proposal = self._proposer.propose(number, [*self._earlier, *self._trials.values()], given)
        config = self._adjust(proposal.config) if self._adjust else proposal.config
        trial = StudyTrial(number=number, storage_id=-1, config=config, system=proposal.system)
        storage_id = self._storage.create_new_trial(self._study_id, to_optuna(trial, self._space))
        frozen = self._storage.get_trial(storage_id)
        share_distributions(frozen, self._distributions)
        trial = from_optuna(frozen)
        self._trials[trial.trial_id] = trial
        return Suggestion(trial.trial_id, number, dict(trial.config))

    def report(self, trial_id: str, record: RungRecord) -> Decision:
        """Record a trial's validation accuracy after an epoch, and decide where that epoch is a rung.

        Any epoch may be reported; those of the rungs must be. A repeated report (of a trial that resumed from
        a checkpoint) is recorded once and gets the same decision. An accuracy that is not finite gets
        :class:`Stop`, after which :meth:`prune` counts the trial as failed.

        Raises:
            KeyError: no such trial.
        """
        trial = self._trials[trial_id]
        if trial.state != "running":
            return Stop(trial.reason or f"the trial is {trial.state}")
        if not math.isfinite(record.accuracy):
            self._put(dataclasses.replace(trial, cost=record.cost, reason=_NOT_A_NUMBER))
            return Stop(_NOT_A_NUMBER)
        known = trial.record_at(record.epoch)
        if known is not None:
            return self._replay(known)
        curve = {**trial.curve, record.epoch: record.accuracy}
        trial = self._put(dataclasses.replace(trial, cost=record.cost, curve=curve))
        return self._decide(trial, record) if record.epoch in self._pruner.levels else Continue()

    def complete(self, trial_id: str, values: tuple[float, float] | None = None) -> None:
        """End a trial that had the full budget.

        Args:
            trial_id: its name.
            values: (cost, validation accuracy at the full budget); default: the last reported ones.
        """
        trial = self._trials[trial_id]
        cost, accuracy = values or (trial.cost or 0, trial.accuracy)
        if cost <= 0 or not math.isfinite(accuracy):
            self.fail(trial_id, "no finite validation accuracy at the end")
            return
        curve = {**trial.curve, self._full_budget: accuracy}
        trial = dataclasses.replace(trial, cost=cost, curve=curve)
        if self._sees_finished and trial.state == "running":
            trial = self._arrived(trial, self._full_budget)
        self._end(trial, "complete", "", (float(cost), accuracy))

    def prune(self, trial_id: str, values: tuple[float, float] | None, reason: str) -> None:
        """End a trial that was stopped early; its figures are kept as attributes.

        Args:
            trial_id: its name.
            values: (cost, last validation accuracy), needed only where nothing was reported.
            reason: shown to the user.
        """
        trial = self._trials[trial_id]
        if trial.reason == _NOT_A_NUMBER:
            self.fail(trial_id, trial.reason)
            return
        if trial.cost is None and values is not None:
            trial = dataclasses.replace(trial, cost=values[0])
        self._end(trial, "stopped", reason)

    def fail(self, trial_id: str, reason: str, cost: float | None = None) -> None:
        """End a trial that failed: by NaN, or by a crash after all retries.

        Args:
            trial_id: its name.
            reason: shown to the user.
            cost: of its student, where nothing was reported: the sampler's model needs it.
        """
        trial = self._trials[trial_id]
        if trial.cost is None and cost:
            trial = dataclasses.replace(trial, cost=cost)
        self._end(trial, "failed", reason)

    def unfinished(self) -> tuple[Suggestion, ...]:
        """Return the running trials, for a driver that resumes; they keep their numbers."""
        return tuple(
            Suggestion(t.trial_id, t.number, dict(t.config), self._pending_stop(t))
            for t in self.trials("running")
        )

    def trials(self, *states: TrialState) -> tuple[StudyTrial, ...]:
        """Return the trials in the given states, or all, by number."""
        return tuple(t for t in self._trials.values() if not states or t.state in states)

    def trial(self, trial_id: str) -> StudyTrial:
        """Return a trial.

        Raises:
            KeyError: no such trial.
        """
        return self._trials[trial_id]

    def _decide(self, trial: StudyTrial, record: RungRecord) -> Decision:
        decision = self._pruner.decide(self._seen(record.epoch, None), record)
        self._write(self._put(self._arrived(trial, record.epoch)))
        return decision

    def _arrived(self, trial: StudyTrial, epoch: int) -> StudyTrial:
        """Return the trial with its record at a rung, or at the end, as the latest arrival."""
        if epoch in trial.arrivals:
            return trial
        trial = dataclasses.replace(trial, arrivals={**trial.arrivals, epoch: self._arrivals})
        self._arrivals += 1
        record = trial.record_at(epoch)
        assert record is not None
        self._rungs.setdefault(epoch, []).append(record)
        return trial

    def _seen(self, epoch: int, until: int | None) -> list[RungRecord]:
        """Return the pruner's records at a rung: the first ``until`` arrivals of the study, or all."""
        epochs = [epoch, self._full_budget] if self._sees_finished else [epoch]
        records = [record for e in epochs for record in self._rungs.get(e, ())]
        if until is None:
            return records
        return [r for r in records if self._trials[r.trial_id].arrivals[r.epoch] < until]

    def _replay(self, record: RungRecord) -> Decision:
        """Return the decision that was made when this record arrived."""
        if record.epoch not in self._pruner.levels:
            return Continue()
        arrival = self._trials[record.trial_id].arrivals[record.epoch]
        return self._pruner.decide(self._seen(record.epoch, arrival), record)

    def _pending_stop(self, trial: StudyTrial) -> Stop | None:
        """Return the decision at the trial's last rung where it was to stop, else None."""
        last = trial.record_at(max(trial.arrivals, default=0))
        decision = self._replay(last) if last is not None else Continue()
        return decision if isinstance(decision, Stop) else None

    def _end(
        self, trial: StudyTrial, state: TrialState, reason: str, values: tuple[float, float] | None = None
    ) -> None:
        """Write the end of a trial; one that has ended is not changed."""
        if self._trials[trial.trial_id].state != "running":
            return
        trial = dataclasses.replace(trial, reason=reason)
        self._write(trial)
        self._storage.set_trial_state_values(trial.storage_id, OPTUNA_STATES[state], values)
        self._put(dataclasses.replace(trial, state=state))

    def _write(self, trial: StudyTrial) -> None:
        self._storage.set_trial_user_attr(trial.storage_id, PROGRESS, trial.progress())

    def _put(self, trial: StudyTrial) -> StudyTrial:
        self._trials[trial.trial_id] = trial
        return trial
