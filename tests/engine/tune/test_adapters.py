"""The searcher and the scheduler of Ray Tune in front of a controller: ends, losses, broken disks."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.engine.controllers import EPOCHS, TRIALS, Power, check, open_controller, search
from tkd_search.engine.controller import MOST_RESTARTS
from tkd_search.engine.tune.scheduler import ControllerScheduler
from tkd_search.engine.tune.searcher import ControllerSearcher
from tkd_search.errors import UserError
from tkd_search.files import DiskFullError


class Result(dict):
    """What Tune hands to its parts."""

    def __init__(self, epoch, accuracy):
        super().__init__(epoch=epoch, val_accuracy=accuracy, failed="")


def a_full_disk(controller, searcher, scheduler, first):
    """The driver's disk fills up while the first trial tells its second epoch."""

    def full(*_):
        raise DiskFullError(controller._tracker.log.path, "No space left on device")

    controller._tracker.log.append = full
    assert scheduler.on_trial_result(None, first, Result(2, 0.6)) == "STOP"
    assert isinstance(controller.broken, DiskFullError)
    searcher.on_trial_complete("a", Result(2, 0.6))


def a_broken_worker(controller, searcher, scheduler, first):
    """The environment of the first trial's worker breaks."""
    broken = "OSError: [Errno 28] No space left on device"
    searcher.on_trial_complete("a", {**Result(1, 0.5), "broken": broken})


@pytest.mark.parametrize("broken_by", [a_full_disk, a_broken_worker])
def test_what_breaks_a_search_ends_it_and_leaves_its_trials_to_the_next(tmp_path, broken_by):
    study, controller = open_controller(tmp_path, Power(10_000))
    searcher, scheduler = ControllerSearcher(controller, "trials"), ControllerScheduler(controller)
    first, second = (SimpleNamespace(config=searcher.suggest(name)) for name in ("a", "b"))
    assert scheduler.on_trial_result(None, first, Result(1, 0.5)) == "CONTINUE"
    broken_by(controller, searcher, scheduler, first)
    assert isinstance(controller.broken, UserError)
    assert "No space left" in str(controller.broken)
    assert scheduler.on_trial_result(None, second, Result(1, 0.5)) == "STOP"
    searcher.on_trial_complete("b", Result(1, 0.5))
    assert searcher.suggest("c") == "FINISHED"
    assert [trial.state for trial in study.trials()] == ["running", "running"]
    study, controller = open_controller(tmp_path, Power(10_000))
    search(controller)
    check(tmp_path, study, controller)


def test_a_trial_whose_process_is_lost_goes_on_as_another_trial_of_tune(tmp_path):
    study, controller = open_controller(tmp_path, Power(10_000))
    searcher = ControllerSearcher(controller, str(tmp_path / "trials"))
    first, *_ = (searcher.suggest(str(number)) for number in range(TRIALS))
    controller.epoch(first["trial_id"], 1, 0.5, {})
    assert searcher.suggest("again") is None  # the budget is spent, but a trial may be lost
    searcher.on_trial_complete("0", error=True)
    assert searcher.suggest("again") == {**first, "after_epoch": 1}
    for name in ("again", *map(str, range(1, TRIALS))):
        searcher.on_trial_complete(name, Result(EPOCHS, 0.7))
    assert searcher.suggest("more") == "FINISHED"
    check(tmp_path, study, controller, {"complete"})


def test_a_trial_that_is_lost_again_and_again_fails(tmp_path):
    study, controller = open_controller(tmp_path, Power(10_000), "search.trials=1")
    searcher = ControllerSearcher(controller, str(tmp_path / "trials"))
    for number in range(MOST_RESTARTS + 1):
        assert searcher.suggest(str(number))["after_epoch"] == 0
        searcher.on_trial_complete(str(number), error=True)
    assert searcher.suggest("last") == "FINISHED"
    (trial,) = study.trials()
    assert (trial.state, "lost 11 times" in trial.reason) == ("failed", True)


def test_checkpoints_are_removed_at_the_end_of_their_trial_alone(tmp_path):
    _, controller = open_controller(tmp_path, Power(10_000))
    searcher = ControllerSearcher(controller, str(tmp_path / "trials"))
    folders = [Path(searcher.suggest(name)["folder"]) for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("checkpoint.pt", "checkpoint-before.pt", "model.safetensors"):
            (folder / name).write_bytes(b"x")
    searcher.on_trial_complete("a", {**Result(1, 0.5), "failed": "no memory"})
    searcher.on_trial_complete("b", {**Result(1, 0.5), "broken": "no space left"})
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names == [
        ["model.safetensors"],
        ["checkpoint-before.pt", "checkpoint.pt", "model.safetensors"],
    ]
