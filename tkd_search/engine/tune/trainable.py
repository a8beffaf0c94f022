"""A Tune trial's hand on a warm worker group: leases a slot, posts the trial, passes its epochs on.

Imports Ray alone: the process of a Trainable starts in a second because torch stays in the groups.
"""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.actor import ActorHandle
from ray.tune import PlacementGroupFactory

from tkd_search.engine.workers.job_queue import LeaseLostError
from tkd_search.engine.workers.queue_actor import SlotClient

STALL_SECONDS = 1800.0
"""A group that delivers nothing for so long is taken for dead; one epoch must be shorter."""

POLL_SECONDS = 2.0


def is_news(result: Mapping[str, Any], heard: int) -> bool:
    """Whether a result says more than that the group is alive.

    An epoch up to the last ``heard`` does not: a group that restarted tells those again.
    """
    return result["kind"] != "alive" and (result["kind"] != "epoch" or result["epoch"] > heard)


class SlotTrainable(tune.Trainable):
    """One trial after the other on leased slots (``reuse_actors=True``).

    ``config`` holds ``trial_id``, ``point``, ``after_epoch`` and ``folder``; ``common`` the rest of the job.
    One step is one validated epoch. A trial that fails reports ``failed`` with its reason and ends, one that
    its machine or the storage ends reports ``broken``. One whose group goes away takes another group and goes
    on from its last epoch, as often as it has to; an exception here is a defect of the infrastructure and
    makes Tune try the trial again from its own checkpoint.
    """

    _last: dict[str, Any]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """A byte: the worker groups hold all the cores, and Tune refuses an empty request."""
        return PlacementGroupFactory([{"CPU": 0, "memory": 1}])

    def setup(
        self,
        config: dict[str, Any],
        queue: ActorHandle | None = None,
        common: dict[str, Any] | None = None,
    ) -> None:
        """Take the first trial; Tune calls this once per actor."""
        self._queue, self._common = queue, common or {}
        self._client: SlotClient | None = None
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the trial at hand, whatever it is doing, and take the next.

        Its slot is given back: the pool may want to end it, and a trial that was interrupted comes first.
        """
        self.cleanup()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next validated epoch: ``epoch val_accuracy metrics done``, and ``failed broken``: '' or why."""
        result = self._next()
        if result["kind"] == "epoch":
            self._last = result
            if not result["last"]:
                return self._result()
            # The last epoch counts only once the student's weights are stored.
            result = self._next()
            self.cleanup()
        return self._result(result)

    def cleanup(self) -> None:
        """Give the slot back."""
        if self._client is not None:
            self._client.release()
            self._client = None

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the group keeps the trial's checkpoint, epoch by epoch."""
        return {"trial": self._trial}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see :meth:`save_checkpoint`."""

    def _start(self, config: dict[str, Any]) -> None:
        self._trial = config["trial_id"]
        self._job = {**self._common, **config}
        self._last = {"epoch": config["after_epoch"]}

    def _next(self) -> dict[str, Any]:
        """The next result that is news, from whichever group the trial runs on by then."""
        waited = 0.0
        while True:
            try:
                result = self._posted().pull(POLL_SECONDS)
            except LeaseLostError:
                result = {"kind": "interrupted"}
            waited = waited + POLL_SECONDS if result is None else 0.0
            if waited > STALL_SECONDS:
                raise RuntimeError(f"worker group of {self._trial} delivered nothing for {waited:g} s")
            if result is None:
                continue
            if result["kind"] == "interrupted":
                self._move()
            elif is_news(result, self._last["epoch"]):
                return result

    def _posted(self) -> SlotClient:
        """A leased slot that has the trial before it; waits for one as long as it takes."""
        if self._client is None:
            client = SlotClient(self._queue, holder=self._trial, timeout=POLL_SECONDS)
            try:
                client.post(self._job)
            except LeaseLostError:
                client.release()
                raise
            self._client = client
        return self._client

    def _move(self) -> None:
        """Leave the group; the next one takes the trial up after the last epoch that was heard of."""
        self.cleanup()
        self._job["after_epoch"] = self._last["epoch"]

    def _result(self, ending: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The last epoch as Tune hears of it, and how the trial ended where it did."""
        ended = {} if ending is None else {ending["kind"]: ending.get("reason", "")}
        return {
            "epoch": self._last["epoch"],
            "val_accuracy": self._last.get("val_accuracy", float("nan")),
            "metrics": self._last.get("metrics", {}),
            "failed": ended.get("failed", ""),
            "broken": ended.get("broken", ""),
            "done": ending is not None,
        }
