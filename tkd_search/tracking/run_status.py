"""How far a search is, told from its spool: works while it runs, after a crash, and from another terminal."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tkd_search.tracking.event_log import EVENTS_FILE, Event, all_events


@dataclass
class SearchState:
    """What a search has done so far; ``figures`` are the last progress (hypervolume, front_size, …)."""

    started: int = 0
    last: int = 0
    states: dict[str, str] = field(default_factory=dict)
    epochs: int = 0
    best: float = math.nan
    figures: dict[str, float] = field(default_factory=dict)

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(one == state for one in self.states.values())


def search_state_of(folder: Path) -> SearchState | None:
    """The standing of a run, None for one that was not tracked."""
    event_log = folder / "tracking" / EVENTS_FILE
    return search_state(all_events(event_log)) if event_log.exists() else None


def search_state(events: Iterable[Event]) -> SearchState:
    """Add up events of a spool."""
    found = SearchState()
    for event in events:
        found.started = found.started or event.time
        found.last = event.time
        _add(found, event.kind, event.data)
    return found


def _add(found: SearchState, kind: str, data: dict[str, Any]) -> None:
    if kind == "trial_started":
        found.states[data["trial_id"]] = "running"
    elif kind == "epoch":
        found.epochs += 1
        accuracy = float(data["record"]["val_accuracy"])
        found.best = accuracy if not found.best >= accuracy else found.best
    elif kind == "trial_ended":
        found.states[data["trial_id"]] = data["state"]
    elif kind == "progress":
        found.figures = dict(data["figures"])
