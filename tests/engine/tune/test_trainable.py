"""A trial's Trainable on real mailboxes, without Ray: what Tune hears of a group that dies and restarts."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tkd_search.engine.tune import trainable
from tkd_search.engine.tune.trainable import SlotTrainable
from tkd_search.engine.workers.job_queue import JobQueue

EPOCHS = 3


class Slot:
    """A slot whose group goes on one act at a time, whenever its holder finds nothing to pull."""

    def __init__(self) -> None:
        self.boxes = JobQueue(ahead=100)
        self.acts: Iterator[None] = iter(())
        self.job: dict[str, Any] = {}
        self._job_id = -1

    def comes_up(self) -> None:
        """The group starts, or starts anew after its death, and takes what is there."""
        self.boxes.attach("a", {})
        taken = self.boxes.take("a", after=-1)
        if taken is not None:
            self._job_id, self.job = taken

    def tell(self, kind: str, **rest: Any) -> None:
        self.boxes.push("a", self._job_id, {"kind": kind, **rest})

    def epoch(self, number: int) -> None:
        self.tell("epoch", epoch=number, val_accuracy=number / 10, metrics={}, last=number == EPOCHS)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Slot:
    group = Slot()
    group.comes_up()

    class Client:
        """As the client of the broker's actor, on the mailboxes themselves."""

        def __init__(self, queue: Any, holder: str, *, timeout: float) -> None:
            lease = group.boxes.lease(holder, 0.0)
            assert lease is not None
            self._lease = lease

        def post(self, job: dict[str, Any]) -> None:
            self._job_id = group.boxes.post(self._lease, job)

        def pull(self, timeout: float) -> dict[str, Any] | None:
            result = group.boxes.pull(self._lease, self._job_id)
            if result is None:
                next(group.acts, None)
            return result

        def release(self) -> None:
            group.boxes.release(self._lease)

    monkeypatch.setattr(trainable, "SlotClient", Client)
    return group


def trial_on(group: Slot, acts: Callable[[], Iterator[None]]) -> SlotTrainable:
    """A trial that has its slot; its group does what it is told."""
    group.acts = acts()
    return SlotTrainable({"trial_id": "t0000", "point": {}, "after_epoch": 0, "folder": ""})


def test_epochs_that_a_restarted_group_tells_again_are_told_to_tune_once(group: Slot) -> None:
    def acts() -> Iterator[None]:
        for told in ([1, 2], [1, 2, 3]):
            group.comes_up()
            for epoch in told:
                yield group.epoch(epoch)
        yield group.tell("done")

    trial = trial_on(group, acts)
    assert [trial.step()["epoch"] for _ in range(3)] == [1, 2, 3]


def test_a_trial_is_complete_only_once_its_weights_are_stored(group: Slot) -> None:
    stored = []

    def acts() -> Iterator[None]:
        for _ in range(2):
            group.comes_up()
            for epoch in (1, 2, 3):
                yield group.epoch(epoch)
            yield  # it is killed while it stores the weights
        stored.append("weights")
        yield group.tell("done")

    trial = trial_on(group, acts)
    results = [trial.step() for _ in range(3)]
    assert [result["done"] for result in results] == [False, False, True]
    assert results[-1]["failed"] == ""
    assert stored


def test_a_trial_that_dies_whenever_it_stores_its_weights_has_failed(group: Slot) -> None:
    def acts() -> Iterator[None]:
        while True:
            group.comes_up()
            for epoch in (1, 2, 3):
                yield group.epoch(epoch)

    trial = trial_on(group, acts)
    assert "died" in [trial.step() for _ in range(3)][-1]["failed"]


def test_a_group_that_tells_nothing_is_taken_for_dead(group: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "STALL_SECONDS", 3 * trainable.POLL_SECONDS)
    with pytest.raises(RuntimeError, match="delivered nothing"):
        trial_on(group, lambda: iter(())).step()


def test_a_sign_of_life_resets_the_wait_and_is_not_told_to_tune(
    group: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "STALL_SECONDS", 3 * trainable.POLL_SECONDS)

    def acts() -> Iterator[None]:
        group.comes_up()
        for epoch in range(1, EPOCHS):
            yield
            yield
            yield group.tell("alive", epoch=epoch)
        yield group.epoch(EPOCHS)
        yield group.tell("done")

    result = trial_on(group, acts).step()
    assert (result["epoch"], result["done"], result["failed"]) == (EPOCHS, True, "")


@pytest.mark.parametrize("kind", ["failed", "broken"])
@pytest.mark.parametrize("epochs", [[1], [1, 2, 3]], ids=["between epochs", "while it stores the weights"])
def test_what_ended_a_trial_is_told_with_its_reason(group: Slot, kind: str, epochs: list[int]) -> None:
    def acts() -> Iterator[None]:
        group.comes_up()
        for epoch in epochs:
            yield group.epoch(epoch)
        yield group.tell(kind, reason="OSError: full")

    trial = trial_on(group, acts)
    while not (result := trial.step())["done"]:
        assert result["failed"] == result["broken"] == ""
    assert (result["epoch"], result[kind]) == (epochs[-1], "OSError: full")
    assert not result["failed" if kind == "broken" else "broken"]
