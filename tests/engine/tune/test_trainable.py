"""A trial's Trainable on a real job queue in virtual time, without Ray: results that Tune gets."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tkd_search.engine.tune import trainable
from tkd_search.engine.tune.trainable import SILENCE_LIMIT, WorkerGroupTrainable
from tkd_search.engine.workers.job_queue import JobQueue
from tkd_search.engine.workers.slot import GroupId, StalledError, WorkerGroup

EPOCHS = 3


class Group:
    """A worker group that does one step of its script whenever its holder finds no result."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue = JobQueue(clock=lambda: self.now, time_to_live=1e9, max_unread=100)
        self.script: Iterator[None] = iter(())
        self._starts, self._job_id = 0, -1

    def start(self) -> None:
        """Start the group, again where it has died, and take the slot's job."""
        self._starts += 1
        self._id = GroupId("a", str(self._starts))
        self.queue.attach(WorkerGroup(self._id))
        taken = self.queue.take(self._id, after=-1)
        if taken is not None:
            self._job_id = taken[0]
            self.queue.start(self._id, self._job_id)

    def push(self, kind: str, **rest: Any) -> None:
        self.queue.push(self._id, self._job_id, {"kind": kind, **rest})

    def epoch(self, number: int) -> None:
        self.push("epoch", epoch=number, val_accuracy=number / 10, metrics={}, last=number == EPOCHS)

    def train(self, seconds: float, *, heartbeats: bool) -> None:
        """Let time pass, with or without a heartbeat at its end."""
        self.now += seconds
        if heartbeats:
            self.queue.heartbeat(self._id, self._job_id)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group()
    group.start()

    class Client:
        """The interface of a lease's client, on the queue itself."""

        def __init__(self, queue: Any, holder: str, *, timeout: float, silence_limit: float) -> None:
            lease = group.queue.lease(holder)
            assert lease is not None
            self._lease, self._silence_limit = lease, silence_limit

        def post(self, job: dict[str, Any]) -> None:
            self._job_id = group.queue.post(self._lease, job)

        def pull(self, timeout: float) -> dict[str, Any] | None:
            result = group.queue.pull(self._lease, self._job_id, self._silence_limit)
            if result is None:
                group.now += timeout
                next(group.script, None)
            return result

        def release(self) -> None:
            group.queue.release(self._lease)

    monkeypatch.setattr(trainable, "LeaseClient", Client)
    return group


def trial_on(group: Group, script: Callable[[], Iterator[None]]) -> WorkerGroupTrainable:
    """A trial that leases the group."""
    group.script = script()
    return WorkerGroupTrainable({"trial_id": "t0000", "settings": "{}", "after_epoch": 0, "folder": ""})


def test_epochs_that_a_restarted_group_repeats_reach_tune_once(group: Group) -> None:
    def script() -> Iterator[None]:
        for epochs in ([1, 2], [1, 2, 3]):
            group.start()
            for epoch in epochs:
                yield group.epoch(epoch)
        yield group.push("done")

    trial = trial_on(group, script)
    assert [trial.step()["epoch"] for _ in range(3)] == [1, 2, 3]


def test_a_trial_is_complete_only_once_its_weights_are_stored(group: Group) -> None:
    stored = []

    def script() -> Iterator[None]:
        for _ in range(2):
            group.start()
            for epoch in (1, 2, 3):
                yield group.epoch(epoch)
            yield  # the group dies while it stores the weights
        stored.append("weights")
        yield group.push("done")

    trial = trial_on(group, script)
    results = [trial.step() for _ in range(3)]
    assert [result["done"] for result in results] == [False, False, True]
    assert results[-1]["failed"] == ""
    assert stored


def test_a_trial_whose_group_always_dies_while_storing_the_weights_fails(group: Group) -> None:
    def script() -> Iterator[None]:
        while True:
            group.start()
            for epoch in (1, 2, 3):
                yield group.epoch(epoch)

    trial = trial_on(group, script)
    assert "died" in [trial.step() for _ in range(3)][-1]["failed"]


def test_an_epoch_may_take_longer_than_the_limit_while_heartbeats_come(group: Group) -> None:
    def script() -> Iterator[None]:
        group.start()
        for _ in range(10):
            yield group.train(0.9 * SILENCE_LIMIT, heartbeats=True)
        yield group.epoch(EPOCHS)
        yield group.push("done")

    result = trial_on(group, script).step()
    assert (result["epoch"], result["done"], result["failed"]) == (EPOCHS, True, "")


def test_a_group_without_heartbeats_is_an_error(group: Group) -> None:
    def script() -> Iterator[None]:
        group.start()
        yield group.epoch(1)
        while True:
            yield group.train(0.3 * SILENCE_LIMIT, heartbeats=False)

    trial = trial_on(group, script)
    assert trial.step()["epoch"] == 1
    with pytest.raises(StalledError, match="no progress"):
        trial.step()


def test_alive_results_do_not_reach_tune(group: Group) -> None:
    def script() -> Iterator[None]:
        group.start()
        for epoch in range(1, EPOCHS):
            yield group.push("alive", epoch=epoch)
        yield group.epoch(EPOCHS)
        yield group.push("done")

    result = trial_on(group, script).step()
    assert (result["epoch"], result["done"], result["failed"]) == (EPOCHS, True, "")


def test_a_note_reaches_tune_with_the_next_epoch_alone(group: Group) -> None:
    def script() -> Iterator[None]:
        group.start()
        yield group.push("note", text="damaged checkpoint.pt")
        for epoch in (1, 2):
            yield group.epoch(epoch)

    trial = trial_on(group, script)
    assert [trial.step()["note"] for _ in range(2)] == ["damaged checkpoint.pt", ""]


@pytest.mark.parametrize("kind", ["failed", "broken"])
@pytest.mark.parametrize("epochs", [[1], [1, 2, 3]], ids=["between epochs", "while storing the weights"])
def test_a_trial_that_ends_early_reports_the_reason(group: Group, kind: str, epochs: list[int]) -> None:
    def script() -> Iterator[None]:
        group.start()
        for epoch in epochs:
            yield group.epoch(epoch)
        yield group.push(kind, reason="OSError: full")

    trial = trial_on(group, script)
    while not (result := trial.step())["done"]:
        assert result["failed"] == result["broken"] == ""
    assert (result["epoch"], result[kind]) == (epochs[-1], "OSError: full")
    assert not result["failed" if kind == "broken" else "broken"]
