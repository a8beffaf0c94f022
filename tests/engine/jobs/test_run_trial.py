"""Training one student in one process: which epochs are validated and pushed, and where it resumes."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.data import writers
from tests.engine.jobs.group import Group, settings_of
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.data.prepared_files import save_prepared
from tkd_search.distill.method_settings import MetricName
from tkd_search.distill.training.distiller import Distiller
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.engine.jobs import caches, checkpoint
from tkd_search.engine.jobs.dispatch import run_job
from tkd_search.export.onnx_file import OnnxNetwork
from tkd_search.formats import shipped_bytes
from tkd_search.models import build_big_model, build_student
from tkd_search.models.weights import save_weights

QUICK = ["method.name=ce", "student.width=0.1", "training.batch_size=512", "training.lr=0.01"]
SHAPE = {"classes": 10, "channels": 1, "size": 8}
SPARSE = ["training.validate_every=4", "training.epochs=6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    save_prepared(load_data(load_config(None, []).settings().data), folder)
    return folder


def train(
    data: Path,
    folder: Path,
    group: Group,
    *settings: str,
    after_epoch: int = 0,
    levels: tuple[int, ...] = (),
    big_models: Sequence[str] = (),
    bank: str = "",
    point: str = "",
) -> list[int]:
    """Run a trial and return the validated epochs that the group got."""
    job = {
        "kind": "trial", "settings": settings_of([*QUICK, *settings]), "data": str(data), "trial_id": "t0000",
        "folder": str(folder), "after_epoch": after_epoch, "bank": bank, "point": point,
        "big_models": list(big_models), "levels": levels,
    }  # fmt: skip
    run_job(job, group.context())
    return group.epochs()


def test_with_validate_every_one_each_epoch_is_validated(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, Group(), "training.validate_every=1", "training.epochs=3") == [1, 2, 3]


@pytest.mark.parametrize(("levels", "expected"), [((), [4, 6]), ((1, 2), [1, 2, 4, 6])])
def test_rungs_and_the_last_epoch_are_always_validated(
    data: Path, tmp_path: Path, levels: tuple[int, ...], expected: list[int]
) -> None:
    assert train(data, tmp_path, Group(), *SPARSE, levels=levels) == expected


def test_a_superseded_training_resumes_after_its_last_validation(data: Path, tmp_path: Path) -> None:
    settings = ["training.validate_every=2", "training.epochs=5"]
    assert train(data, tmp_path / "cut", Group(stop_after=2), *settings) == [2]
    resumed, whole = Group(), Group()
    assert train(data, tmp_path / "cut", resumed, *settings, after_epoch=2) == [4, 5]
    assert train(data, tmp_path / "whole", whole, *settings) == [2, 4, 5]
    last = [next(r for r in reversed(g.results) if r["kind"] == "epoch") for g in (resumed, whole)]
    assert last[0]["val_accuracy"] == last[1]["val_accuracy"]


def test_a_checkpoint_of_another_configuration_is_left_alone(data: Path, tmp_path: Path) -> None:
    """A driver that moved to another machine may give a trial's number to another configuration."""
    settings = ["training.validate_every=1", "training.epochs=2"]
    assert train(data, tmp_path, Group(), *settings, point='{"method.tau": 1}') == [1, 2]
    assert train(data, tmp_path, Group(), *settings, point='{"method.tau": 2}', after_epoch=1) == [1, 2]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


LAST, BEFORE = "checkpoint.pt", "checkpoint-before.pt"


@pytest.mark.parametrize(
    ("damaged", "damage", "epochs"),
    [
        ((LAST,), cut_short, [2, 3]),
        ((LAST,), flip_a_bit, [2, 3]),
        ((LAST,), Path.unlink, [2, 3]),  # as a kill between the two steps of a save leaves it
        ((LAST, BEFORE), flip_a_bit, [1, 2, 3]),
    ],
)
def test_a_trial_goes_on_from_its_last_undamaged_checkpoint(
    data: Path, tmp_path: Path, damaged: Sequence[str], damage: Callable[[Path], None], epochs: list[int]
) -> None:
    settings = ["training.validate_every=1", "training.epochs=3"]
    group, resumed, whole = Group(stop_after=2), Group(), Group()
    assert train(data, tmp_path / "cut", group, *settings) == [1, 2]
    for name in damaged:
        damage(tmp_path / "cut" / name)
    assert train(data, tmp_path / "cut", resumed, *settings, after_epoch=2) == epochs
    expected = f"damaged {' and '.join(damaged)}: goes on after epoch {epochs[0] - 1}"
    notes = [result["text"] for result in resumed.results if result["kind"] == "note"]
    assert notes == ([] if damage is Path.unlink else [expected])
    train(data, tmp_path / "whole", whole, *settings)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1]
    assert not train(data, tmp_path / "cut", Group(), *settings, after_epoch=3), "the training is complete"


def test_epochs_between_validations_are_pushed_as_alive(data: Path, tmp_path: Path) -> None:
    group = Group()
    assert train(data, tmp_path, group, *SPARSE) == [4, 6]
    assert group.epochs("alive") == [1, 2, 3, 5]


def test_a_training_is_saved_between_distant_validations_once_enough_time_has_passed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = Group(), Group()
    train(data, tmp_path / "whole", whole, *SPARSE)
    assert train(data, tmp_path / "rare", Group(stop_after=2), *SPARSE) == []
    assert not (tmp_path / "rare").exists(), "nothing is saved within the first minutes"
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    train(data, tmp_path / "cut", Group(stop_after=5), *SPARSE)
    assert train(data, tmp_path / "cut", resumed, *SPARSE) == [4, 6], "validated epochs are pushed again"
    assert resumed.epochs("alive") == [], "trained epochs are not trained again"
    assert [r["val_accuracy"] for r in resumed.results[:2]] == [
        r["val_accuracy"] for r in whole.results if r["kind"] == "epoch"
    ]


def test_a_trial_learns_from_unlabelled_images_and_resumes(big_model: Path, tmp_path: Path) -> None:
    writers.write_images(tmp_path / "others", 40, size=(8, 8), mode="L")
    settings = [f"data.unlabelled={tmp_path / 'others'}", "method.name=kd", "training.epochs=2"]
    settings += ["training.validate_every=1"]
    settings += ["data.train_limit=50", "big_model.width=0.1"]
    data, bank = tmp_path / "data", tmp_path / "bank"
    save_prepared(load_data(load_config(None, settings).settings().data), data)
    job = {
        "kind": "bank", "settings": settings_of([*QUICK, *settings]), "data": str(data), "folder": str(bank),
        "big_models": [str(big_model)],
    }  # fmt: skip
    run_job(job, Group().context())
    run = partial(train, data, bank=str(bank))
    assert run(tmp_path / "cut", Group(stop_after=1), *settings) == [1]
    resumed, whole = Group(), Group()
    assert run(tmp_path / "cut", resumed, *settings, after_epoch=1) == [2]
    assert run(tmp_path / "whole", whole, *settings) == [1, 2]
    assert resumed.results[0]["metrics"]["labels"] == whole.results[1]["metrics"]["labels"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1]


def test_where_the_images_are_kept_does_not_change_bank_or_student(
    big_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
    writers.write_image_folder(tmp_path / "images", {"train": 40}, list("abcdefghij"), size=(8, 8), mode="L")
    settings = ["data.name=imagefolder", f"data.path={tmp_path / 'images'}", "method.name=kd"]
    settings += ["training.epochs=1", "training.batch_size=64", "big_model.width=0.1"]
    monkeypatch.setattr(caches, "EVAL_BATCH", 16)
    shipped, results = {}, {}
    for kept, memory, disk in (("memory", 16, None), ("disk", 0, None), ("nowhere", 0, 0)):
        given, place = load_config(None, settings).settings().data, tmp_path / kept
        object.__setattr__(given, "memory_budget_mb", memory)  # users may not set less than 16 MB
        object.__setattr__(given, "disk_budget_gb", disk)
        save_prepared(load_data(given), place / "data")
        job = {"kind": "bank", "settings": settings_of([*QUICK, *settings]), "data": str(place / "data")}
        run_job({**job, "folder": str(place / "bank"), "big_models": [str(big_model)]}, Group().context())
        group = Group()
        train(place / "data", place / "trial", group, *settings, bank=str(place / "bank"))
        shipped[kept] = (place / "trial" / "model.safetensors").read_bytes()
        results[kept] = group.results[0]["val_accuracy"]
    assert shipped["memory"] == shipped["disk"] == shipped["nowhere"]
    assert results["memory"] == results["disk"] == results["nowhere"]


def test_a_training_that_is_killed_within_an_epoch_goes_on_within_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.batch_size=8", "training.epochs=2", "training.validate_every=1"]
    whole, resumed = Group(), Group()
    train(data, tmp_path / "whole", whole, *settings)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    assert train(data, tmp_path / "cut", Group(stop_at_batch=100), *settings) == []
    trained: list[int] = []
    train_batch = Distiller._train_batch
    monkeypatch.setattr(
        Distiller, "_train_batch", lambda self, *batch: trained.append(self.step) or train_batch(self, *batch)
    )
    assert train(data, tmp_path / "cut", resumed, *settings) == [1, 2]
    assert trained[0] == 96
    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for result in (*whole.results, *resumed.results):
        result.get("metrics", {}).pop("seconds", None)
    assert resumed.results == whole.results


CUT = ["student.name=cut", "student.width=0.4", "student.depth=1", "student.args={}", "big_model.width=0.1"]


@pytest.fixture(scope="module")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_config(None, CUT).settings().big_models[0]
    folder = tmp_path_factory.mktemp("big_model")
    torch.manual_seed(0)
    save_weights(build_big_model(settings, **SHAPE).model, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_cut_starts_from_the_big_model_and_resumes(
    data: Path, big_model: Path, tmp_path: Path, importance: str
) -> None:
    settings = [*CUT, f"student.importance={importance}", "training.validate_every=1", "training.epochs=3"]
    settings += ["student.format=int8"]
    run = partial(train, data, big_models=[str(big_model)])
    assert run(tmp_path / "cut", Group(stop_after=1), *settings) == [1]
    resumed, whole = Group(), Group()
    assert run(tmp_path / "cut", resumed, *settings, after_epoch=1) == [2, 3]
    assert run(tmp_path / "whole", whole, *settings) == [1, 2, 3]
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (
        tmp_path / "whole/model.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "cut/cut.json").read_text())["removed"]
    student = load_config(None, settings).settings().student
    expected = build_student(student, **SHAPE, big_model=load_config(None, CUT).settings().big_models[0])
    size = (tmp_path / "cut/model.safetensors").stat().st_size
    assert size == shipped_bytes(expected.model, "int8")


def test_a_cut_is_made_from_any_number_of_images(big_model: Path, tmp_path: Path) -> None:
    """One image alone has no batch statistics: 129 images are 65 and 64."""
    settings = [*CUT, "training.batch_size=64", "training.epochs=1", "data.train_limit=129"]
    settings += [
        "big_model.name=resnet18",
        "big_model.width=0.1",
        "big_model.stem=original",
        "student.ratios=null",
    ]
    config = load_config(None, settings).settings()
    save_prepared(load_data(config.data), tmp_path / "data")
    torch.manual_seed(0)
    network = build_big_model(config.big_models[0], **SHAPE).model
    save_weights(network, tmp_path / "big_model" / "model.safetensors")
    places = [str(tmp_path / "big_model")]
    assert train(tmp_path / "data", tmp_path / "cut", Group(), *settings, big_models=places) == [1]


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_results_and_test_figures_are_the_metric_of_the_search(
    data: Path, tmp_path: Path, metric: MetricName
) -> None:
    settings = ["training.epochs=1", f"search.metric={metric}"]
    group, tested = Group(), Group()
    train(data, tmp_path, group, *settings)
    member = {"trial_id": "t0000", "settings": settings_of([*QUICK, *settings]), "folder": str(tmp_path)}
    run_job({"kind": "test", "data": str(data), "members": [member]}, tested.context())
    bundle, onnx = caches.data_at(str(data)), OnnxNetwork(tmp_path / "model.onnx")
    figures = [group.results[0]["val_accuracy"], tested.results[0]["test_accuracy"]]
    assert figures == [
        evaluate(onnx, caches.batches_of(bundle, split, "cpu"), metric)
        for split in (bundle.validation, bundle.test)
    ]


def test_a_validation_sends_heartbeats(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "EVAL_BATCH", 64)
    group = Group()
    train(data, tmp_path, group, "training.epochs=1")
    batches = -(-len(caches.data_at(str(data)).validation.labels) // 64)
    assert group.beats == 2 * batches, "the network and its ONNX file are validated"
