"""Ray Tune's TrialScheduler in front of the search controller: translation only."""

import logging
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from tkd_search.engine.controller import Controller
from tkd_search.errors import UserError

_log = logging.getLogger(__name__)


class ControllerScheduler(FIFOScheduler):
    """Lets the controller decide after every validated epoch whether the trial continues."""

    _supports_buffered_results = False

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self._controller = controller

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its scheduler, and this one is never restored from that."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept only a search without a single metric: there are two objectives."""
        return metric is None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return CONTINUE or STOP."""
        if self._controller.broken is not None:
            return str(self.STOP)
        if result.get("note"):
            _log.warning("%s: %s", trial.config["trial_id"], result["note"])
        if result["failed"] or result.get("broken"):
            return str(self.CONTINUE)
        try:
            continues = self._controller.epoch(
                trial.config["trial_id"], result["epoch"], result["val_accuracy"], metrics_of(result)
            )
        except (UserError, OSError) as error:
            self._controller.broken = error
            return str(self.STOP)
        return str(self.CONTINUE if continues else self.STOP)


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the epoch's metrics from a result that Tune has flattened."""
    return {
        key.removeprefix("metrics/"): float(value)
        for key, value in result.items()
        if key.startswith("metrics/")
    }
