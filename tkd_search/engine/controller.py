"""The search controller: starts, prunes and records trials. It knows nothing of Ray.

The Tune adapters call :class:`Controller` and translate its answers. The decisions are the pruner's and the
study's. Everything it knows is in the study and in the event log, so a new controller over the same run
resumes the search of a killed one.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import describe_student, resolve
from tkd_search.config.sections import Settings
from tkd_search.engine.budget import Budget
from tkd_search.engine.latencies import too_slow
from tkd_search.engine.search_state import SearchState, Trials
from tkd_search.errors import UserError
from tkd_search.models.model_settings import StudentSettings
from tkd_search.optimize.pareto import CostScale
from tkd_search.optimize.pruners.base import RungRecord, Stop
from tkd_search.optimize.study import SearchStudy, Suggestion
from tkd_search.results.costs import Costed
from tkd_search.results.records import EpochRecord, TrialRecord
from tkd_search.tracking.tracker import Tracker

MAX_FILE_DIFFERENCE = 0.005
"""Difference of validation accuracy between file and simulated network above which it is recorded."""

MOST_RESTARTS = 10
"""Times that a trial whose process is lost starts again; a lost worker group or machine does not count."""


@dataclass(frozen=True)
class Assignment:
    """A trial to run: searched values, settings, and the epoch after which it goes on (0: from the start)."""

    trial_id: str
    point: Mapping[str, object]
    settings: Settings
    after_epoch: int


@dataclass(frozen=True, kw_only=True)
class Size(Costed):
    """A student's cost and number of parameters."""

    parameters: int


class Controller:
    """Starts, prunes and records the trials of one search.

    A trial's state is written to the study first and then to the event log. A controller that finds the study
    ahead of the log completes the log.

    Args:
        config: the experiment.
        study: proposes configurations and decides at rungs.
        budget: limits of the search.
        measure: settings of a trial → its student's cost, before any training.
        tracker: holds the event log, which is read first and then appended to.
        scale: of the costs, for the hypervolume.
        classes: number of classes, for the hypervolume's reference point.
        latency: a student → milliseconds of one image; None where ``search.max_latency`` is not set.
        changed: called after each change with the new state.

    Attributes:
        broken: the error that keeps the search from going on (a full disk, Ctrl-C), set by the adapter that
            caught it. The search then ends, its trials stay unfinished, and the same command resumes it.
        history: (epochs spent, hypervolume) after each trial that ended.
        budget_reached: the limit that a driver's search has reached, '' before.
    """

    def __init__(
        self,
        config: Config,
        study: SearchStudy,
        budget: Budget,
        *,
        measure: Callable[[Settings], Size],
        tracker: Tracker,
        scale: CostScale,
        classes: int,
        latency: Callable[[StudentSettings], float] | None = None,
        changed: Callable[[SearchState], None] = lambda state: None,
    ) -> None:
        self._config, self._study, self._budget = config, study, budget
        self._measure, self._tracker = measure, tracker
        self._latency, self._changed = latency, changed
        self._limit = config.settings().search.latency_limit or math.inf
        self._full = config.settings().training.epochs
        self._trials = Trials(scale, classes)
        self._stops: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self.broken: BaseException | None = None
        self.history: list[tuple[int, float]] = []
        self._plateau: list[float] = []
        self._unfinished: dict[str, TrialRecord] = {}
        self._replay()
        self._complete_log()
        self._waiting = list(study.unfinished())
        self._restarts: Counter[str] = Counter()
        self.budget_reached = ""

    # called by the searcher -------------------------------------------------------------------------

    def next_trial(self) -> Assignment | None:
        """Return the next trial to start: unfinished and lost ones first, then new ones.

        None where the budget is spent. A student above the limit on latency ends here, untrained.
        """
        while (suggestion := self._next_suggestion()) is not None:
            settings = self._start(suggestion)
            if settings is None:
                continue
            record = self._trials[suggestion.trial_id]
            try:
                reason = self._refusal(suggestion, settings)
            except UserError as error:
                self.ended(record.trial_id, str(error))
                continue
            if not reason:
                self._changed(self.search_state())
                # A worker group needs at least one epoch to train, whose result ends the trial.
                after = min(record.epochs_trained, self._full - 1)
                return Assignment(record.trial_id, suggestion.config, settings, after)
            self._stops[record.trial_id] = reason
            self.ended(record.trial_id)
        return None

    def latency_of(self, student: StudentSettings) -> float | None:
        """Return a student's milliseconds per image, None where latency is not limited."""
        return None if self._latency is None else self._latency(student)

    def _next_suggestion(self) -> Suggestion | None:
        if self._waiting:
            return self._waiting.pop(0)
        # A spent budget stays spent, whatever trials gain that still run.
        self.budget_reached = self.budget_reached or self._budget.exhausted(
            self.search_state(), len(self._trials), self._plateau
        )
        return None if self.budget_reached else self._study.ask()

    def _refusal(self, suggestion: Suggestion, settings: Settings) -> str:
        """Return why a started trial is not trained: the pruner's earlier decision, or the latency limit.

        Raises:
            UserError: the student's latency cannot be measured.
        """
        if suggestion.stop is not None:
            return suggestion.stop.reason
        latency = self.latency_of(settings.student)
        return "" if latency is None else too_slow(latency, self._limit)

    def _start(self, suggestion: Suggestion) -> Settings | None:
        """Record that a trial starts; where its student cannot be built, record that it failed.

        Returns:
            The trial's settings; None where its student cannot be built.
        """
        trial_id = suggestion.trial_id
        settings = resolve(self._config, suggestion.config)
        size, problem = Size(bytes=0, parameters=0), ""
        try:
            size = self._measure(settings)
        except UserError as error:
            problem = str(error)
        known = self._unfinished.pop(trial_id, None)
        self._trials[trial_id] = TrialRecord(
            trial_id=trial_id,
            student=describe_student(settings),
            config=suggestion.config,
            bytes=size.bytes,
            latency=size.latency,
            parameters=size.parameters,
            state="running",
            epochs=known.epochs if known else (),
            seconds=known.seconds if known else 0.0,
        )
        self._tracker.trial_started(self._trials[trial_id])
        if problem:
            self.ended(trial_id, problem)
            return None
        self._started[trial_id] = time.monotonic()
        if suggestion.stop is not None or self._study.trial(trial_id).state != "running":
            self._epochs_from_study(trial_id)
        return settings

    def _epochs_from_study(self, trial_id: str) -> None:
        """Log the epochs that only the study has, of a trial that trains no more.

        A trial that goes on reports such epochs again, with its losses.
        """
        record = self._trials[trial_id]
        logged = {entry.epoch for entry in record.epochs}
        curve = self._study.trial(trial_id).curve
        lost = [EpochRecord(epoch=e, val_accuracy=a, metrics={}) for e, a in curve.items() if e not in logged]
        for entry in lost:
            self._tracker.epoch(trial_id, entry)
        epochs = sorted([*record.epochs, *lost], key=lambda entry: entry.epoch)
        self._trials[trial_id] = replace(record, epochs=tuple(epochs))

    # called by the scheduler ------------------------------------------------------------------------

    def epoch(self, trial_id: str, epoch: int, val_accuracy: float, metrics: Mapping[str, float]) -> bool:
        """Record one epoch and return whether the trial goes on; a known epoch is not counted twice."""
        record = self._trials[trial_id]
        # The study first: an epoch in the log is not trained again, so its decision must be stored by then.
        decision = self._study.report(
            trial_id,
            RungRecord(trial_id=trial_id, epoch=epoch, cost=record.cost, accuracy=val_accuracy),
        )
        if math.isfinite(val_accuracy) and epoch > record.epochs_trained:
            entry = EpochRecord(epoch=epoch, val_accuracy=val_accuracy, metrics=dict(metrics))
            self._tracker.epoch(trial_id, entry)
            self._trials[trial_id] = replace(record, epochs=(*record.epochs, entry))
            self._changed(self.search_state())
        if isinstance(decision, Stop):
            self._stops[trial_id] = decision.reason
        return trial_id not in self._stops

    # a trial's end ----------------------------------------------------------------------------------

    def lost(self, trial_id: str) -> bool:
        """Start a trial next whose process is lost, after its last epoch; return whether it goes on.

        After :data:`MOST_RESTARTS` times it ends as failed.
        """
        if self._restarts[trial_id] == MOST_RESTARTS:
            self.ended(trial_id, f"the process that ran it was lost {MOST_RESTARTS + 1} times")
            return False
        self._restarts[trial_id] += 1
        record, now = self._trials[trial_id], time.monotonic()
        seconds = record.seconds + now - self._started.get(trial_id, now)
        self._unfinished[trial_id] = replace(record, seconds=seconds)
        self._waiting += [one for one in self._study.unfinished() if one.trial_id == trial_id]
        return True

    def ended(self, trial_id: str, failed: str = "") -> None:
        """Record a trial's end: stopped at a rung, complete, or failed for the reason given."""
        record = self._trials[trial_id]
        self._end_in_study(record, failed)
        told = self._study.trial(trial_id)
        now = time.monotonic()
        seconds = record.seconds + now - self._started.get(trial_id, now)
        reason = told.reason or file_difference(record)
        record = replace(record, state=told.state, reason=reason, seconds=seconds)
        self._trials[trial_id] = record
        state = self.search_state()
        self._note_end(record, state.epochs, state.hypervolume)
        self._tracker.trial_ended(
            record,
            {
                "step": float(len(self.history)),
                "hypervolume": state.hypervolume,
                "front_size": float(len(state.front)),
                "epochs_spent": float(state.epochs),
            },
        )
        self._changed(state)

    def _end_in_study(self, record: TrialRecord, failed: str) -> None:
        values = (float(record.cost), record.val_accuracy)
        stopped = self._stops.pop(record.trial_id, "")
        last = record.epochs_trained
        if failed:
            self._study.fail(record.trial_id, failed, record.cost)
        elif stopped:
            self._study.prune(record.trial_id, values, stopped)
        elif last >= self._full:
            self._study.complete(record.trial_id, values)
        else:
            self._study.fail(record.trial_id, f"ended after epoch {last} of {self._full}", record.cost)

    def _note_end(self, record: TrialRecord, epochs: int, hypervolume: float) -> None:
        self.history.append((epochs, hypervolume))
        if record.epochs:  # untrained students cost no epoch and do not count towards a plateau
            self._plateau.append(hypervolume)

    # state ------------------------------------------------------------------------------------------

    def trials(self) -> tuple[TrialRecord, ...]:
        """Return every trial so far, by number."""
        return tuple(self._trials[key] for key in sorted(self._trials))

    def search_state(self) -> SearchState:
        """Return the counts, the front of complete trials, and its hypervolume."""
        return self._trials.search_state()

    def _replay(self) -> None:
        """Restore trials and history from the event log."""
        log = self._tracker.logged()
        for trial in log.trials.values():
            self._trials[trial.trial_id] = trial
            if trial.state == "running":
                self._unfinished[trial.trial_id] = trial
        self.history = list(log.history)
        ended = (log.trials[trial_id] for trial_id in log.ended)
        self._plateau = [
            volume for trial, (_, volume) in zip(ended, log.history, strict=True) if trial.epochs
        ]

    def _complete_log(self) -> None:
        """Log the ends that only the study has: a driver died, or lost power, between the two writes."""
        for told in self._study.trials("complete", "stopped", "failed"):
            suggestion = Suggestion(told.trial_id, told.number, dict(told.config))
            known = self._trials.get(told.trial_id)
            if (known is None or known.state == "running") and self._start(suggestion):
                self.ended(told.trial_id)


def file_difference(record: TrialRecord) -> str:
    """Return a sentence where file and simulated network differ by over half a point, else ''."""
    simulated = record.epochs[-1].metrics.get("simulated_accuracy") if record.epochs else None
    if simulated is None or abs(simulated - record.val_accuracy) <= MAX_FILE_DIFFERENCE:
        return ""
    return f"the exported file has validation accuracy {record.val_accuracy:.2%}, the network {simulated:.2%}"
