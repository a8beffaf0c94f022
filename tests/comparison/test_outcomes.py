"""One training on a fresh seed: which outcomes are kept, without a worker group."""

from types import SimpleNamespace

import pytest

from tkd_search.comparison.fresh_trainings import FreshTraining, _train
from tkd_search.comparison.outcomes import read_training
from tkd_search.comparison.paired_statistics import Failure
from tkd_search.config.experiment_file import load_config
from tkd_search.engine import pipeline
from tkd_search.errors import UserError
from tkd_search.results.records import TrialRecord

WINNER = TrialRecord(trial_id="t0000", student="s", config={}, bytes=40, parameters=10, state="complete")
TESTED = [{"kind": "tested", "test_accuracy": 0.5}, {"kind": "done"}]
PREPARED = SimpleNamespace(trial_job=lambda: {"kind": "trial"}, data_folder="data")


def epoch(number, accuracy=0.25, **metrics):
    metrics = {"seconds": float(number), "weight.fc": 0.5 + accuracy, **metrics}
    return {"kind": "epoch", "epoch": number, "val_accuracy": accuracy, "metrics": metrics}


def failed(reason):
    return {"kind": "failed", "reason": reason, "trace": "…"}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train a winner on a group that gives these results; return the outcome in its file."""

    def trained(*results, tested=TESTED):
        answers = {"trial": results, "test": tested}
        monkeypatch.setattr(pipeline, "_on_one_group", lambda queue, job: iter(answers[job["kind"]]))
        task = FreshTraining("tkd", 1003, load_config(None, name="c"), WINNER, tmp_path / "tkd-1003.json")
        _train(None, str(tmp_path), task, PREPARED)
        return read_training(task.file)

    return trained


def test_a_training_is_kept_with_its_last_accuracy_and_its_one_test(train):
    kept = train(epoch(1, 0.25), epoch(2, 0.5), {"kind": "done"})
    assert (kept.label, kept.seed, kept.val_accuracy, kept.test_accuracy) == ("tkd", 1003, 0.5, 0.5)
    assert (kept.bytes, kept.parameters) == (40, 10)
    assert [teacher[:3] for teacher in kept.teachers] == [(1, "fc", 0.75), (2, "fc", 1.0)]


def test_epochs_that_a_restarted_group_repeats_count_once(train):
    kept = train(epoch(1), epoch(2), epoch(1), epoch(2, 0.5), epoch(3, 0.5), {"kind": "done"})
    assert [teacher[:3] for teacher in kept.teachers] == [(1, "fc", 0.75), (2, "fc", 1.0), (3, "fc", 1.0)]
    assert kept.seconds_per_epoch == 2.0


def test_a_training_that_diverges_is_kept_as_failed(train):
    reason = "Diverged: the loss is not finite in epoch 2 (ce nan); lower training.lr"
    assert train(epoch(1), failed(reason)) == Failure(
        label="tkd", seed=1003, failed=reason, parameters=10, bytes=40
    )


@pytest.mark.parametrize(
    "reason",
    [
        "OSError: [Errno 28] No space left on device",
        "OutOfMemoryError: CUDA out of memory",
        "RuntimeError: Diverged: a file of that name",
        "ActorDiedError: the queue died",
    ],
)
def test_an_error_of_the_machine_is_raised_and_not_kept(train, tmp_path, reason):
    with pytest.raises(UserError, match=reason.partition(":")[0]):
        train(epoch(1), failed(reason))
    assert not list(tmp_path.iterdir())


def test_a_failed_test_is_raised_and_not_kept(train, tmp_path):
    with pytest.raises(UserError, match="stage test"):
        train(epoch(1), {"kind": "done"}, tested=[failed("Diverged: of another job")])
    assert not list(tmp_path.iterdir())
