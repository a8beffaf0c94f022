"""Folds a run's event log into the state of its search: trials, epochs, history, time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tkd_search.results.costs import CostName
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import BigModelRecord, EpochRecord, SearchStart, TrialRecord
from tkd_search.tracking.event_log import Event, all_events, events_file

DRIVER_STARTED = "driver_started"
"""Kind of the first event of every driver; ``seconds`` is its working time by then."""


@dataclass
class SearchLog:
    """A search as its event log describes it.

    Attributes:
        search: the search as it was last started, None before ``search_started``.
        big_model: F's figures, None before F is trained.
        trials: every trial by identifier, in order of its first start.
        history: (epochs spent, hypervolume) after each trial that ended.
        ended: identifiers of the trials that ended, in that order; parallel to ``history``.
        figures: the search's figures after the last trial that ended (hypervolume, front_size …).
        end: the last ``search_ended`` record without trials and history, None before it.
        started: time of the first event in milliseconds since 1970, 0 for an empty log.
        last: time of the last event.
        seconds: seconds that all drivers together worked, each from its start to its last event.
    """

    search: SearchStart | None = None
    big_model: BigModelRecord | None = None
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    started: int = 0
    last: int = 0
    seconds: float = 0.0
    _clock: int = 0

    def add(self, event: Event) -> None:
        """Add the next event of the log."""
        clock = event.clock or event.time
        if event.kind == DRIVER_STARTED:
            self.seconds += event.data.get("seconds", 0.0)
        elif self.started:
            self.seconds += max(0, clock - self._clock) / 1000
        self._clock = clock
        self.started = self.started or event.time
        self.last = event.time
        match event.kind:
            case "search_started":
                self.search = from_plain(SearchStart, event.data)
            case "big_model":
                self.big_model = from_plain(BigModelRecord, event.data)
            case "trial_started":
                self._trial_started(event.data)
            case "epoch":
                self._epoch(event.data)
            case "trial_ended":
                self._trial_ended(event.data)
            case "search_ended":
                self.end = event.data["record"]

    def _trial_started(self, data: Mapping[str, Any]) -> None:
        known = self.trials.get(data["trial_id"])
        self.trials[data["trial_id"]] = TrialRecord(
            trial_id=data["trial_id"],
            student=data["student"],
            config=data["params"],
            bytes=data["bytes"],
            latency=data.get("latency"),
            parameters=data["parameters"],
            state="running",
            epochs=known.epochs if known else (),
        )

    def _epoch(self, data: Mapping[str, Any]) -> None:
        trial = self.trials.get(data["trial_id"])
        if trial is None:  # the line of its start is damaged
            return
        entry = from_plain(EpochRecord, data["record"])
        self.trials[trial.trial_id] = replace(trial, epochs=(*trial.epochs, entry))

    def _trial_ended(self, data: Mapping[str, Any]) -> None:
        trial = self.trials.get(data["trial_id"])
        if trial is None:  # the line of its start is damaged
            return
        self.trials[trial.trial_id] = replace(
            trial, state=data["state"], reason=data["reason"], seconds=data["seconds"]
        )
        self.ended.append(trial.trial_id)
        self.figures = dict(data["search"])
        self.history.append((int(self.figures["epochs_spent"]), self.figures["hypervolume"]))

    @property
    def cost(self) -> CostName:
        """What the search minimises."""
        name: CostName = (self.search.config if self.search else {}).get("search.cost", "bytes")
        return name

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials.values())


def read_search_log(run: Path) -> SearchLog:
    """Return the search in a run's event log; an empty one where there is no log."""
    return fold_events(all_events(events_file(run)))


def fold_events(events: Iterable[Event]) -> SearchLog:
    """Return the search that these events describe, in order."""
    log = SearchLog()
    for event in events:
        log.add(event)
    return log
