"""When a search proposes no further trial: a pure decision over its standing."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tkd_search.config.search_settings import SearchSettings
from tkd_search.tracking.event_log import Event

if TYPE_CHECKING:
    from tkd_search.engine.search_state import SearchState

DRIVER = "driver"
"""Kind of the entry with which a driver begins in the epoch log; ``seconds`` it had worked by then."""

DRIVER_END = "driver_end"
"""Kind of its last entry; one that was killed has none."""


@dataclass(frozen=True)
class Budget:
    """The limits of one search; whichever is reached first ends it.

    Attributes:
        settings: trials, hours, epochs and plateau allowed.
        spent: seconds of earlier drivers of this search.
        started: clock reading at the start of this driver, in seconds: before F is trained.
        clock: seconds, monotonic.
    """

    settings: SearchSettings
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic

    def exhausted(self, search_state: "SearchState", trials: int, reached: Sequence[float]) -> str:
        """Why no further trial may start; empty while one may.

        Args:
            search_state: counts of trials and epochs so far.
            trials: trials started so far.
            reached: hypervolume after each trial that trained and ended.
        """
        limits = self.settings
        if trials >= limits.trials:
            return f"{limits.trials} trials"
        if limits.max_epochs is not None and search_state.epochs >= limits.max_epochs:
            return f"{limits.max_epochs} epochs"
        if (
            limits.max_hours is not None
            and self.spent + self.clock() - self.started >= limits.max_hours * 3600
        ):
            return f"{limits.max_hours:g} hours"
        if limits.plateau is not None and _flat(reached, limits.plateau):
            return f"no gain in hypervolume over {limits.plateau} trials"
        return ""


def seconds_spent(events: Iterable[Event]) -> float:
    """Seconds from each driver's start to its last entry in the epoch log, over all drivers of a search."""
    total, began, last = 0.0, 0.0, 0.0
    for event in events:
        if event.kind == DRIVER or not began:
            total += last - began
            began = event.time - 1000 * _seconds_before(event)
        last = event.time
    return (total + last - began) / 1000


def _seconds_before(event: Event) -> float:
    """What its driver had worked before an entry; unknown in logs of before this was written down."""
    return float(event.data.get("seconds", 0)) if event.kind == DRIVER else 0.0


def _flat(values: Sequence[float], plateau: int) -> bool:
    return len(values) > plateau and max(values[-plateau:]) <= max(values[:-plateau])
