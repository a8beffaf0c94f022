"""Tune Trainable that runs trials on a leased worker group.

Imports Ray alone: the process of a Trainable starts in a second because torch stays in the groups.
"""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.actor import ActorHandle
from ray.tune import PlacementGroupFactory

from tkd_search.engine.workers.queue_clients import LeaseClient
from tkd_search.engine.workers.slot import LeaseLostError

SILENCE_LIMIT = 1800.0
"""Seconds without a heartbeat after which a trial's worker group counts as hanging.

A group sends heartbeats from every training step, so an epoch may take any time. The longest stretch without
one is that before the first step: a cold machine fetches the data set and the bank (10 minutes for 60 GB at
100 MB/s) and compiles. A limit that is too low would end such a trial again and again; one that is too high
only delays the end of a hang, which is rare.
"""

POLL_SECONDS = 2.0


def is_new(result: Mapping[str, Any], last_epoch: int) -> bool:
    """Return whether a result is for Tune: an epoch after ``last_epoch``, or the trial's end.

    A group that restarted repeats the epochs up to the last one; ``alive`` results carry no figures.
    """
    return result["kind"] != "alive" and (result["kind"] != "epoch" or result["epoch"] > last_epoch)


class WorkerGroupTrainable(tune.Trainable):
    """Runs one trial after the other on leased worker groups (``reuse_actors=True``).

    ``config`` holds ``trial_id``, ``settings``, ``after_epoch`` and ``folder``; ``common`` holds the rest.
    One step is one validated epoch. A trial that fails reports ``failed`` with its reason and ends; one that
    its machine or the storage ends reports ``broken``. A trial whose group goes away leases another group and
    continues after its last epoch, any number of times. An exception means that the infrastructure failed:
    Tune runs the trial again from its own checkpoint.
    """

    _last: dict[str, Any]
    _note = ""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Return a request for one byte: the worker groups hold all cores, and Tune needs a request."""
        return PlacementGroupFactory([{"CPU": 0, "memory": 1}])

    def setup(
        self,
        config: dict[str, Any],
        queue: ActorHandle | None = None,
        common: dict[str, Any] | None = None,
    ) -> None:
        """Take the first trial; Tune calls this once per actor."""
        self._queue, self._common = queue, common or {}
        self._client: LeaseClient | None = None
        self._set_trial(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the current trial, whatever its state, and take the next.

        Releases the slot: the pool may want to end it, and interrupted trials lease a slot first.
        """
        self.cleanup()
        self._set_trial(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next validated epoch: ``epoch val_accuracy metrics done failed broken note``.

        Raises:
            StalledError: the worker group hangs.
        """
        result = self._next_result()
        if result["kind"] == "epoch":
            self._last = result
            if not result["last"]:
                return self._report()
            # The last epoch counts only once the student's weights are stored.
            result = self._next_result()
            self.cleanup()
        return self._report(result)

    def cleanup(self) -> None:
        """Release the slot."""
        if self._client is not None:
            self._client.release()
            self._client = None

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Save the name only: the worker group keeps the trial's checkpoint, epoch by epoch."""
        return {"trial": self._trial}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing; see :meth:`save_checkpoint`."""

    def _set_trial(self, config: dict[str, Any]) -> None:
        self._trial = config["trial_id"]
        self._job = {**self._common, **config}
        self._last = {"epoch": config["after_epoch"]}

    def _next_result(self) -> dict[str, Any]:
        """Return the next new result, from whichever group runs the trial by then."""
        while True:
            try:
                result = self._leased().pull(POLL_SECONDS)
            except LeaseLostError:
                result = {"kind": "interrupted"}
            if result is None:
                continue
            if result["kind"] == "interrupted":
                self._leave_group()
            elif result["kind"] == "note":
                self._note = result["text"]
            elif is_new(result, self._last["epoch"]):
                return result

    def _leased(self) -> LeaseClient:
        """Return the lease on the group that runs the trial.

        Raises:
            LeaseLostError: no group is free yet.
        """
        if self._client is None:
            client = LeaseClient(
                self._queue, holder=self._trial, timeout=POLL_SECONDS, silence_limit=SILENCE_LIMIT
            )
            try:
                client.post(self._job)
            except LeaseLostError:
                client.release()
                raise
            self._client = client
        return self._client

    def _leave_group(self) -> None:
        """Release the slot; the next group continues the trial after its last reported epoch."""
        self.cleanup()
        self._job["after_epoch"] = self._last["epoch"]

    def _report(self, ending: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the last epoch for Tune, with the trial's ending where it ended."""
        reasons = {} if ending is None else {ending["kind"]: ending.get("reason", "")}
        note, self._note = self._note, ""
        return {
            "note": note,
            "epoch": self._last["epoch"],
            "val_accuracy": self._last.get("val_accuracy", float("nan")),
            "metrics": self._last.get("metrics", {}),
            "failed": reasons.get("failed", ""),
            "broken": reasons.get("broken", ""),
            "done": ending is not None,
        }
