"""Who runs next, who goes on, what is written down: the search without Ray.

The Ray adapters call :class:`Controller` and translate its answers; the decisions themselves are the pure
rung rule's and the study's. Everything it knows survives in the study and in the epoch log, so a new
referee over the same folder goes on where a killed one stopped.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import clip_point, describe_student
from tkd_search.config.sections import Settings
from tkd_search.engine.budget import DRIVER, DRIVER_END, Budget
from tkd_search.engine.latency_limit import too_slow
from tkd_search.engine.search_state import SearchState, Trials
from tkd_search.errors import UserError
from tkd_search.models.model_settings import StudentSettings
from tkd_search.optimize.pruners.base import RungRecord, Stop
from tkd_search.optimize.study import SearchStudy, Suggestion
from tkd_search.results.records import EpochRecord, TrialRecord
from tkd_search.tracking.event_log import Event, EventLog, all_events
from tkd_search.tracking.tracker import Tracker


@dataclass(frozen=True)
class Assignment:
    """A trial to run: its point of the space and the epochs that are known already."""

    trial_id: str
    point: dict[str, Any]
    after_epoch: int


@dataclass(frozen=True)
class Size:
    """A student's bytes (safetensors) and parameters."""

    bytes: int
    parameters: int


class Controller:
    """The bookkeeping of one search.

    ``broken`` is set, by whoever met it, to what keeps the search from going on (a full disk, Ctrl-C): it
    then ends, its trials stay unfinished, and the same command goes on once the cause is mended.

    Args:
        config: the experiment.
        study: proposes, decides at rungs, remembers.
        budget: when to stop proposing.
        measure: settings of a trial → its student's size, before any training.
        tracker: told of everything.
        log: the epoch log, appended to; what it holds is replayed first.
        candidates: taps of F, to clip K (× masks).
        big_model_bytes: size of F, for ratio and hypervolume.
        classes: number of classes, for the hypervolume's reference point.
        latency: a student → milliseconds of one image, where ``search.max_latency`` is set.
        changed: called after each change, with the new standing.
    """

    def __init__(
        self,
        config: Config,
        study: SearchStudy,
        budget: Budget,
        *,
        measure: Callable[[Settings], Size],
        tracker: Tracker,
        log: EventLog,
        candidates: int,
        big_model_bytes: int,
        classes: int,
        latency: Callable[[StudentSettings], float] | None = None,
        changed: Callable[[SearchState], None] = lambda search_state: None,
    ) -> None:
        self._config, self._study, self._budget = config, study, budget
        self._measure, self._tracker, self._log = measure, tracker, log
        self._candidates = candidates
        self._latency, self._changed = latency, changed
        self._limit = config.settings().search.latency_limit or math.inf
        self._full = config.settings().training.epochs
        self._trials = Trials(big_model_bytes, classes)
        self._stops: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self.broken: BaseException | None = None
        self.history: list[tuple[int, float]] = []
        self._reached: list[float] = []
        self._last: Event | None = None
        self._replay()
        self._mend()
        self._waiting = list(study.unfinished())

    # what the searcher asks -------------------------------------------------------------------------

    def next_trial(self) -> Assignment | None:
        """The next trial to start: first those a killed driver left unfinished, then new ones.

        None where the budget allows no more. A student above the limit on latency ends here.
        """
        while (suggestion := self._next_suggestion()) is not None:
            if not self._entered(suggestion):
                continue
            if suggestion.stop is not None:
                self._stops[suggestion.trial_id] = suggestion.stop.reason
            else:
                assignment = self._assign(suggestion)
                latency = self.latency_of(assignment.point)
                reason = "" if latency is None else too_slow(latency, self._limit)
                if not reason:
                    return assignment
                self._stops[suggestion.trial_id] = reason
            self.ended(suggestion.trial_id)
        return None

    def latency_of(self, point: Mapping[str, Any]) -> float | None:
        """Milliseconds of one image through a trial's student, None where nothing limits it."""
        return None if self._latency is None else self._latency(self._config.settings(point).student)

    def _next_suggestion(self) -> Suggestion | None:
        if self._waiting:
            return self._waiting.pop(0)
        if self._budget.exhausted(self.search_state(), len(self._trials), self._reached):
            return None
        return self._study.ask()

    def _assign(self, suggestion: Suggestion) -> Assignment:
        record = self._trials[suggestion.trial_id]
        _, notes = clip_point(self._config, suggestion.config, self._candidates)
        params = {**record.config, **({"clipped": "; ".join(notes)} if notes else {})}
        self._tracker.trial_started(record.trial_id, record.student, params, record.bytes, record.parameters)
        self._changed(self.search_state())
        # A worker group that finds all epochs told would have none left to end the trial with.
        return Assignment(record.trial_id, record.config, min(record.epochs_trained, self._full - 1))

    def _entered(self, suggestion: Suggestion) -> bool:
        """Enter a trial; where its student cannot be built, it failed, and the search goes on without it."""
        try:
            self._enter(suggestion)
        except UserError as error:
            self._refuse(suggestion, str(error))
            return False
        return True

    def _refuse(self, suggestion: Suggestion, reason: str) -> None:
        name, point = suggestion.trial_id, suggestion.config
        student = describe_student(self._config.settings(point))
        self._trials[name] = TrialRecord(
            trial_id=name, student=student, config=point, bytes=0, parameters=0, state="running"
        )
        self._tracker.trial_started(name, student, point, 0, 0)
        self.ended(name, reason)

    def _enter(self, suggestion: Suggestion) -> None:
        """Put a trial among the running ones, with the epochs that are known of it."""
        trial_id = suggestion.trial_id
        point, _ = clip_point(self._config, suggestion.config, self._candidates)
        settings = self._config.settings(point)
        size = self._measure(settings)
        known = self._trials.get(trial_id)
        self._started[trial_id] = time.monotonic()
        self._trials[trial_id] = TrialRecord(
            trial_id=trial_id,
            student=describe_student(settings),
            config=point,
            bytes=size.bytes,
            parameters=size.parameters,
            state="running",
            epochs=known.epochs if known else tuple(self._orphans.pop(trial_id, ())),
        )
        if suggestion.stop is not None or self._study.trial(trial_id).state != "running":
            self._fill_from_study(trial_id)

    def _fill_from_study(self, trial_id: str) -> None:
        """Write down the epochs that the study knows and the log lost, between two writes or in a power cut.

        Of a trial that trains no more: one that goes on tells them again, with its losses.
        """
        record = self._trials[trial_id]
        logged = {entry.epoch for entry in record.epochs}
        curve = self._study.trial(trial_id).curve
        lost = [EpochRecord(epoch=e, val_accuracy=a, metrics={}) for e, a in curve.items() if e not in logged]
        for entry in lost:
            self._log.append("epoch", {"trial_id": trial_id, "record": vars(entry)})
            self._tracker.epoch(trial_id, entry)
        epochs = sorted([*record.epochs, *lost], key=lambda entry: entry.epoch)
        self._trials[trial_id] = replace(record, epochs=tuple(epochs))

    # what the scheduler asks ------------------------------------------------------------------------

    def epoch(self, trial_id: str, epoch: int, val_accuracy: float, metrics: Mapping[str, float]) -> bool:
        """Write one epoch down; whether the trial goes on. An epoch known already is not counted twice."""
        record = self._trials[trial_id]
        # The study first: what is in the log is never asked for again, so its decision must be kept by then.
        decision = self._study.report(
            trial_id,
            RungRecord(trial_id=trial_id, epoch=epoch, bytes=record.bytes, accuracy=val_accuracy),
        )
        if math.isfinite(val_accuracy) and (not record.epochs or epoch > record.epochs[-1].epoch):
            entry = EpochRecord(epoch=epoch, val_accuracy=val_accuracy, metrics=dict(metrics))
            self._log.append("epoch", {"trial_id": trial_id, "record": vars(entry)})
            self._trials[trial_id] = replace(record, epochs=(*record.epochs, entry))
            self._tracker.epoch(trial_id, entry)
            self._changed(self.search_state())
        if isinstance(decision, Stop):
            self._stops[trial_id] = decision.reason
        return trial_id not in self._stops

    # how a trial ends -------------------------------------------------------------------------------

    def ended(self, trial_id: str, failed: str = "") -> None:
        """A trial is over: stopped at a rung, complete, or failed for the reason given."""
        record = self._trials[trial_id]
        values = (float(record.bytes), record.val_accuracy)
        stopped = self._stops.pop(trial_id, "")
        last = record.epochs_trained
        if failed:
            self._study.fail(trial_id, failed, record.bytes)
        elif stopped:
            self._study.prune(trial_id, values, stopped)
        elif last >= self._full:
            self._study.complete(trial_id, values)
        else:
            self._study.fail(trial_id, f"ended after epoch {last} of {self._full}", record.bytes)
        told = self._study.trial(trial_id)
        state, reason = told.state, told.reason
        now = time.monotonic()
        seconds = record.seconds + now - self._started.get(trial_id, now)
        record = replace(record, state=state, reason=reason, seconds=seconds)
        self._trials[trial_id] = record
        self._log.append(
            "end",
            {
                key: getattr(record, key)
                for key in (
                    "trial_id",
                    "student",
                    "config",
                    "bytes",
                    "parameters",
                    "state",
                    "reason",
                    "seconds",
                )
            },
        )
        self._note_end(record, self.search_state().epochs)
        self._tell_end(record)

    def _note_end(self, record: TrialRecord, epochs: int) -> None:
        hypervolume = self.search_state().hypervolume
        self.history.append((epochs, hypervolume))
        if record.epochs:  # students above a limit cost no epoch and say nothing of a plateau
            self._reached.append(hypervolume)

    def _tell_end(self, record: TrialRecord) -> None:
        """Tell the tracker of the trial that ended last."""
        self._tracker.trial_ended(record)
        search_state = self.search_state()
        self._tracker.progress(
            len(self.history),
            {
                "hypervolume": search_state.hypervolume,
                "front_size": float(len(search_state.front)),
                "epochs_spent": float(search_state.epochs),
            },
        )
        self._changed(search_state)

    # what is known ----------------------------------------------------------------------------------

    def trials(self) -> tuple[TrialRecord, ...]:
        """Every trial so far, by number."""
        return tuple(self._trials[key] for key in sorted(self._trials))

    @property
    def seconds_before(self) -> float:
        """Seconds that earlier drivers of this search had spent."""
        return self._budget.spent

    def driver_ended(self) -> None:
        """Note in the log that this driver is done, so that a later one counts its time to the end."""
        self._log.append(DRIVER_END, {})

    def search_state(self) -> SearchState:
        """Counts, the front of complete trials, and its hypervolume."""
        return self._trials.search_state()

    def _replay(self) -> None:
        """Rebuild trials, epochs and the hypervolume's history from the epoch log."""
        epochs: dict[str, list[EpochRecord]] = {}
        for event in all_events(self._log.path):
            if event.kind in (DRIVER, DRIVER_END):
                continue
            trial_id = event.data["trial_id"]
            if event.kind == "epoch":
                epochs.setdefault(trial_id, []).append(EpochRecord(**event.data["record"]))
            elif event.kind == "end":
                record = TrialRecord(**event.data, epochs=tuple(epochs.pop(trial_id, ())))
                self._trials[trial_id] = record
                running = sum(known[-1].epoch for known in epochs.values())
                self._note_end(record, self.search_state().epochs + running)
            self._last = event
        self._orphans = epochs

    def _mend(self) -> None:
        """Pass on what a killed driver could not: the study hears first, then the log, then the tracker."""
        if self._last is not None:
            trial_id = self._last.data["trial_id"]
            if self._last.kind == "end":
                self._tell_end(self._trials[trial_id])
            else:
                self._tracker.epoch(trial_id, self._orphans[trial_id][-1])
        for told in self._study.trials("complete", "stopped", "failed"):
            suggestion = Suggestion(told.trial_id, told.number, dict(told.config))
            if told.trial_id not in self._trials and self._entered(suggestion):
                self.ended(told.trial_id)
