"""Ray Tune's Searcher in front of the search controller: translation only."""

import math
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tkd_search import storage
from tkd_search.engine.controller import Controller
from tkd_search.engine.tune.scheduler import metrics_of
from tkd_search.errors import UserError


class ControllerSearcher(Searcher):
    """Hands out the referee's assignments and tells it how each ended.

    Args:
        referee: decides.
        trials: place below which each trial keeps its checkpoint and weights.
        room: how many trials the worker groups that are up can run (machines come and go); trials that lost
            theirs count as running, and so come before new ones.
    """

    def __init__(
        self, controller: Controller, trials: str, room: Callable[[], float] = lambda: math.inf
    ) -> None:
        super().__init__()
        self._controller, self._trials, self._room = controller, trials, room
        self._names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next configuration, None to wait, FINISHED where the budget is spent."""
        if self._controller.broken is not None:
            return Searcher.FINISHED
        if len(self._names) >= self._room():
            return None
        try:
            assignment = self._controller.next_trial()
        except (UserError, OSError) as error:
            self._controller.broken = error
            return Searcher.FINISHED
        if assignment is None:
            return Searcher.FINISHED
        self._names[trial_id] = assignment.trial_id
        return {
            "trial_id": assignment.trial_id,
            "point": assignment.point,
            "after_epoch": assignment.after_epoch,
            "folder": storage.below(self._trials, assignment.trial_id),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial is over, by its own end, by the scheduler's stop or by an error.

        Where its machine or the storage broke it is not: the search ends, and the next goes on with it.
        """
        name = self._names.pop(trial_id, None)
        if name is None or self._controller.broken is not None:
            return
        try:
            self._over(name, result, error)
        except (UserError, OSError) as problem:
            self._controller.broken = problem  # Tune would swallow it and try the trial again

    def _over(self, name: str, result: dict[str, Any] | None, error: bool) -> None:
        if result and result.get("broken"):
            raise UserError(
                f"a worker of {name}",
                result["broken"],
                "a disk with room, and a storage that answers",
                "mend it and start the same command again: its trials go on",
            )
        reason = (result or {}).get("failed", "")
        if result and not reason:
            # Tune does not show the scheduler a trial's last result.
            self._controller.epoch(name, result["epoch"], result["val_accuracy"], metrics_of(result))
        self._controller.ended(name, reason or ("its worker group failed repeatedly" if error else ""))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given at the start; nothing of ours is ever restored from that."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth and is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see :meth:`save`."""
