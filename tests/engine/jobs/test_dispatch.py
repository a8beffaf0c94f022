"""A training as a worker group runs it, here in one process: which epochs it tells of, where it goes on."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.data.prepared_files import save_prepared
from tkd_search.engine import finalize, pipeline
from tkd_search.engine.jobs import caches, checkpoint, dispatch
from tkd_search.engine.jobs.dispatch import job_config, run_job
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.pipeline import big_model_key
from tkd_search.models import build_big_model
from tkd_search.models.weights import save_weights
from tkd_search.results.records import BigModelRecord, TrialRecord

QUICK = ["method.name=ce", "student.width=0.1", "training.batch_size=512", "training.lr=0.01"]


class Group:
    """Takes what a job pushes, and may supersede it after an epoch."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.results: list[dict[str, Any]] = []
        self._stop_after = stop_after
        self.beats = 0

    @property
    def epochs(self) -> list[int]:
        return self.told("epoch")

    def told(self, kind: str) -> list[int]:
        """Epochs that were told so."""
        return [result["epoch"] for result in self.results if result["kind"] == kind]

    def context(self) -> JobContext:
        def stopped() -> bool:
            return any(result.get("epoch", 0) >= self._stop_after for result in self.results)

        return JobContext(
            rank=0, workers=1, device="cpu", push=self.results.append, should_stop=stopped, beat=self._beat
        )

    def _beat(self) -> None:
        self.beats += 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    save_prepared(load_data(load_config(None, []).settings().data), folder)
    return folder


def train(data: Path, folder: Path, group: Group, *settings: str, after_epoch: int = 0) -> list[int]:
    config = load_config(None, [*QUICK, *settings])
    job = {
        "kind": "trial", "config": job_config(config), "data": str(data), "trial_id": "t0000", "point": {},
        "folder": str(folder), "after_epoch": after_epoch, "bank": "", "big_models": [],
    }  # fmt: skip
    run_job(job, group.context())
    return group.epochs


def test_every_epoch_is_validated_unless_told_otherwise(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, Group(), "training.epochs=3") == [1, 2, 3]


def test_a_validation_sends_heartbeats(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "EVAL_BATCH", 64)
    group = Group()
    train(data, tmp_path, group, "training.epochs=1")
    assert group.beats == -(-len(caches.data_at(str(data)).validation.labels) // 64)


@pytest.mark.parametrize(("pruner", "expected"), [("never", [4, 6]), ("single_objective", [1, 2, 4, 6])])
def test_rungs_and_the_last_epoch_are_validated_always(
    data: Path, tmp_path: Path, pruner: str, expected: list[int]
) -> None:
    settings = [f"search.pruner={pruner}", "search.pruner_args={}", "training.validate_every=4"]
    assert train(data, tmp_path, Group(), *settings, "training.epochs=6") == expected


def test_a_superseded_training_goes_on_after_its_last_validation(data: Path, tmp_path: Path) -> None:
    settings = [
        "search.pruner=never",
        "search.pruner_args={}",
        "training.validate_every=2",
        "training.epochs=5",
    ]
    assert train(data, tmp_path / "cut", Group(stop_after=2), *settings) == [2]
    resumed, whole = Group(), Group()
    assert train(data, tmp_path / "cut", resumed, *settings, after_epoch=2) == [4, 5]
    assert train(data, tmp_path / "whole", whole, *settings) == [2, 4, 5]
    last = [next(r for r in reversed(g.results) if r["kind"] == "epoch") for g in (resumed, whole)]
    assert last[0]["val_accuracy"] == last[1]["val_accuracy"]


SPARSE = ["search.pruner=never", "search.pruner_args={}", "training.validate_every=4", "training.epochs=6"]


def test_epochs_between_validations_are_told_as_life_alone(data: Path, tmp_path: Path) -> None:
    group = Group()
    assert train(data, tmp_path, group, *SPARSE) == [4, 6]
    assert group.told("alive") == [1, 2, 3, 5]


def test_a_training_is_kept_between_validations_that_are_far_apart(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = Group(), Group()
    train(data, tmp_path / "whole", whole, *SPARSE)
    assert train(data, tmp_path / "rare", Group(stop_after=2), *SPARSE) == []
    assert not (tmp_path / "rare").exists(), "nothing is kept within the first minutes"
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    train(data, tmp_path / "cut", Group(stop_after=5), *SPARSE)
    assert train(data, tmp_path / "cut", resumed, *SPARSE) == [4, 6], "what was validated is told again"
    assert resumed.told("alive") == [], "what was trained is not trained again"
    assert [r["val_accuracy"] for r in resumed.results[:2]] == [
        r["val_accuracy"] for r in whole.results if r["kind"] == "epoch"
    ]


def test_a_sign_of_life_is_nothing_to_those_who_wait_for_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [{"kind": "alive", "epoch": 1}, {"kind": "epoch", "epoch": 2}, {"kind": "done"}]
    monkeypatch.setattr(pipeline, "_on_one_group", lambda queue, job: iter(told))
    queue: Any = None
    assert list(pipeline.run_stage(queue, {"kind": "trial"})) == told[1:]


def test_weights_travel_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process has another working directory than the user's shell."""
    (tmp_path / "f.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    given = load_config(None, ["big_model.weights=f.safetensors"])
    assert json.loads(job_config(given))["big_model"]["weights"] == str(tmp_path / "f.safetensors")
    assert given.settings().big_models[0].weights == "f.safetensors"
    named = load_config(None, ["big_model.weights=IMAGENET1K_V1"])
    assert json.loads(job_config(named))["big_model"]["weights"] == "IMAGENET1K_V1"


def test_a_loaded_big_model_is_evaluated_on_the_device_of_its_group(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, ["big_model.width=0.1"])
    settings = config.settings().big_models[0]
    weights = tmp_path / "f.safetensors"
    save_weights(build_big_model(settings, classes=10, channels=1, size=8).model, weights)
    config = load_config(None, ["big_model.width=0.1", f"big_model.weights={weights}"])
    devices = []

    def seen(model: Any, batches: Any) -> float:
        devices.append(next(model.parameters()).device.type)
        raise KeyboardInterrupt

    monkeypatch.setattr(dispatch, "evaluate", seen)
    job = {
        "kind": "big_model", "config": job_config(config), "index": 0, "data": str(data),
        "folder": str(tmp_path / "f"), "checkpoint": str(tmp_path / "c"),
    }  # fmt: skip
    context = JobContext(rank=0, workers=1, device="meta", push=print, should_stop=lambda: False)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, context)
    assert devices == ["meta"]


def test_a_big_model_trained_in_another_precision_is_another() -> None:
    data = load_data(load_config(None, []).settings().data)

    def key(*settings: str) -> str:
        return big_model_key(load_config(None, list(settings)).settings(), 0, data)

    assert key("big_model.precision=bf16") != key()
    assert key("big_model.precision=bf16") == key("training.precision=bf16")
    assert key("big_model.precision=fp32", "training.precision=bf16") == key()


def test_a_big_model_that_is_never_right_leaves_retention_unknown():
    trial = TrialRecord(trial_id="t0000", student="s", config={}, bytes=10, parameters=2, state="complete")
    f = BigModelRecord(name="f", bytes=100, parameters=20, val_accuracy=0.0, test_accuracy=0.0)
    prepared: Any = SimpleNamespace(big_model=f)
    member = finalize._member(trial, prepared, {"test_accuracy": 0.5}, None)
    assert math.isnan(member.retention)
    assert member.ratio == 0.1


def test_the_same_weights_in_another_network_are_another_big_model(tmp_path: Path):
    for name in ("big_model-a", "big_model-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    a, b = (pipeline._big_model_digest(str(tmp_path / name)) for name in ("big_model-a", "big_model-b"))
    assert a != b
