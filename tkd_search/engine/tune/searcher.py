"""Ray Tune's Searcher in front of the search controller: translation only."""

import json
import math
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tkd_search import storage
from tkd_search.config.settings_json import to_json
from tkd_search.engine.controller import Controller
from tkd_search.engine.run_dir.checkpoint_files import remove_checkpoints
from tkd_search.engine.tune.scheduler import metrics_of
from tkd_search.errors import UserError


class ControllerSearcher(Searcher):
    """Translates the controller's assignments to Tune and the ends of trials to the controller.

    Args:
        controller: proposes trials and records their ends.
        trials: folder or URI below which each trial keeps its checkpoint and weights.
        room: returns how many trials the worker groups that are up can run. Trials that lost their group
            count as running, so that they lease a group before new trials start.
    """

    def __init__(
        self, controller: Controller, trials: str, room: Callable[[], float] = lambda: math.inf
    ) -> None:
        super().__init__()
        self._controller, self._trials, self._room = controller, trials, room
        self._names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration, None to be called later, FINISHED where nothing is left to run.

        While trials run, None: one of them may be lost and start again.
        """
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
            return None if self._names else Searcher.FINISHED
        self._names[trial_id] = assignment.trial_id
        return {
            "trial_id": assignment.trial_id,
            "point": json.dumps(assignment.point, sort_keys=True),
            "settings": to_json(assignment.settings),
            "after_epoch": assignment.after_epoch,
            "folder": storage.below(self._trials, assignment.trial_id),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the end of a trial: by itself, by the scheduler or by an error.

        A trial that its machine or the storage ended stays unfinished: the search ends, and the next run of
        the same command continues it. A trial whose Trainable is lost starts again as another trial of Tune.
        """
        name = self._names.pop(trial_id, None)
        if name is None or self._controller.broken is not None:
            return
        try:
            self._record_end(name, result, error)
        except (UserError, OSError) as problem:
            self._controller.broken = problem  # Tune would catch it and run the trial again

    def _record_end(self, name: str, result: dict[str, Any] | None, error: bool) -> None:
        if result and result.get("broken"):
            raise UserError(
                f"a worker of {name}",
                result["broken"],
                "a disk with free space and reachable storage",
                "fix the cause and run the same command again: it continues this search's trials",
            )
        if error and self._controller.lost(name):
            return
        reason = (result or {}).get("failed", "")
        if result and not reason:
            # Tune does not pass a trial's last result to the scheduler.
            self._controller.epoch(name, result["epoch"], result["val_accuracy"], metrics_of(result))
        if not error:
            self._controller.ended(name, reason)
        remove_checkpoints(storage.below(self._trials, name))

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher, and this one is never restored from that."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study on disk holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see :meth:`save`."""
