"""Decides when a search proposes no further trial."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tkd_search.config.search_settings import SearchSettings

if TYPE_CHECKING:
    from tkd_search.engine.search_state import SearchState


@dataclass(frozen=True)
class Budget:
    """The limits of one search; the first one reached ends it.

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
        """Return why no further trial may start, '' while one may.

        Args:
            search_state: counts of trials and epochs so far.
            trials: trials started so far.
            reached: hypervolume after each trial that trained and ended.
        """
        limits = self.settings
        if trials >= limits.trials:
            return f"{limits.trials} trials"
        if limits.max_epochs is not None and search_state.epochs >= limits.max_epochs:
            return f"{limits.max_epochs} epochs (search.max_epochs)"
        if (
            limits.max_hours is not None
            and self.spent + self.clock() - self.started >= limits.max_hours * 3600
        ):
            return f"{limits.max_hours:g} hours (search.max_hours)"
        if limits.plateau is not None and _flat(reached, limits.plateau):
            return f"no gain in hypervolume over {limits.plateau} trials (search.plateau)"
        return ""


def _flat(values: Sequence[float], plateau: int) -> bool:
    return len(values) > plateau and max(values[-plateau:]) <= max(values[:-plateau])
