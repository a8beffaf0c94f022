"""Pretrained weights of students are read and stored once, and trials start from them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.jobs.group import Group
from tkd_search.config.experiment_file import Config, load_config
from tkd_search.config.resolve import describe_student, resolve
from tkd_search.config.settings_json import to_json
from tkd_search.data import load_data
from tkd_search.data.prepared_files import save_prepared
from tkd_search.engine.jobs.dispatch import run_job
from tkd_search.engine.student_weights import (
    check_student_weights,
    store_student_weights,
    students_with_weights,
)
from tkd_search.errors import UserError
from tkd_search.models import build_student, save_weights

PLAIN = "tkd_search.models.plain:plain_cnn"
BASE = ("student.args={}", "student.depth=1", "method.name=ce", "training.epochs=1")


def configured(*given: str) -> Config:
    return load_config(None, [*BASE, *given])


@pytest.fixture(scope="module")
def data():
    return load_data(configured().settings().data)


@pytest.fixture
def file(tmp_path: Path, data) -> Path:
    settings = configured("student.name=mobilenet_v2", "student.width=0.25").settings().student
    save_weights(build_student(settings, classes=7, channels=1, size=8).model, tmp_path / "g.safetensors")
    return tmp_path / "g.safetensors"


def test_every_name_and_weights_of_the_space_is_read(file, data) -> None:
    config = configured(
        "student.name={choice: [mobilenet_v2, mobilenet_v3_small]}",
        f"student.weights={{choice: [null, {file}]}}",
    )
    assert {(s.name, s.weights) for s in students_with_weights(config)} == {
        ("mobilenet_v2", str(file)), ("mobilenet_v3_small", str(file)),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"student\.weights.*\n.*same architecture"):
        check_student_weights(config, data)


def test_pretrained_has_no_effect_without_weights_in_the_library(data) -> None:
    config = configured(
        f"student.name={PLAIN}", "student.args={in_channels: 1}", "student.weights=pretrained"
    )
    assert students_with_weights(config) == ()
    assert "pretrained" not in describe_student(config.settings())


def test_weights_that_are_not_at_hand_are_refused_before_anything_starts(data, tmp_path) -> None:
    with pytest.raises(UserError, match="not a file"):
        check_student_weights(configured(f"student.weights={tmp_path / 'gone.safetensors'}"), data)


def test_weights_are_stored_once_by_their_content(file, tmp_path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    config = configured(f"student.weights={{choice: [null, {file}, {copy}]}}")
    places = store_student_weights(config, str(tmp_path / "cache"))
    assert len(places) == 2
    assert len(set(places.values())) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
    file.unlink()
    (place,) = set(places.values())
    assert load_file(Path(place) / "model.safetensors")


def test_a_trial_starts_from_stored_weights_and_needs_no_file(file, data, tmp_path) -> None:
    config = configured(
        "student.name=mobilenet_v2", "student.width=0.25", f"student.weights={file}", "training.lr=1e-9",
        "training.schedule=constant", "training.weight_decay=0",
    )  # fmt: skip
    (note,) = check_student_weights(config, data)
    assert "tensors" in note
    save_prepared(data, tmp_path / "data")
    before = load_file(file)
    places = store_student_weights(config, str(tmp_path / "cache"))
    file.unlink()
    job = {
        "kind": "trial", "settings": to_json(resolve(config)), "trial_id": "t0", "after_epoch": 0,
        "levels": [], "data": str(tmp_path / "data"), "bank": "", "big_models": [],
        "folder": str(tmp_path / "t0"), "student_weights": places,
    }  # fmt: skip
    run_job(job, Group().context())
    saved = torch.load(tmp_path / "t0" / "checkpoint.pt", weights_only=True)["distiller"]["student"]
    for name in ("features.0.0.weight", "features.3.conv.1.0.weight"):
        torch.testing.assert_close(saved[f"model.{name}"], before[name], atol=1e-5, rtol=1e-4)
    assert saved["model.classifier.1.weight"].shape[0] == 10
