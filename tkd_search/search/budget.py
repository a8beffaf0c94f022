"""When a search proposes no further trial: a pure decision over its standing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tkd_search.search.settings import SearchSettings

if TYPE_CHECKING:
    from tkd_search.search.referee import Standing


@dataclass(frozen=True)
class Budget:
    """The limits of one search; whichever is reached first ends it.

    Attributes:
        settings: trials, hours, epochs and plateau allowed.
        started: clock reading at the start of this driver, in seconds.
        clock: seconds, monotonic.
    """

    settings: SearchSettings
    started: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic

    def exhausted(self, standing: "Standing", trials: int, history: Sequence[tuple[int, float]]) -> str:
        """Why no further trial may start; empty while one may.

        Args:
            standing: where the search stands.
            trials: trials started so far.
            history: (epochs spent, hypervolume) after each trial ended.
        """
        limits = self.settings
        if trials >= limits.trials:
            return f"{limits.trials} trials"
        if limits.max_epochs is not None and standing.epochs >= limits.max_epochs:
            return f"{limits.max_epochs} epochs"
        if limits.max_hours is not None and self.clock() - self.started >= limits.max_hours * 3600:
            return f"{limits.max_hours:g} hours"
        if limits.plateau is not None and len(history) > limits.plateau:
            best_before = max(value for _, value in history[: -limits.plateau])
            if max(value for _, value in history[-limits.plateau :]) <= best_before:
                return f"no gain in hypervolume over {limits.plateau} trials"
        return ""
