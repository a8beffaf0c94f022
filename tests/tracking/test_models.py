"""Registered versions as MLflow's own tools meet them: loaded by ``models:/``, predicted with, served."""

import json
import shutil
import subprocess
import sys
import warnings

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import tkd_search
from tests.tracking.stores import SHIPPED, Server, artifacts, drain_here
from tests.tracking.synthetic import tell_all
from tkd_search.errors import UserError
from tkd_search.export.pyfunc import StudentModel
from tkd_search.export.shipping import write_files
from tkd_search.export.student_description import read_description, write_description
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings
from tkd_search.tracking import open_tracker

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def member(record):
    return record.front[0]


@pytest.fixture
def student(folder, member):
    """The folder of a front member whose weights are a network's."""
    place = folder / member.path
    torch.manual_seed(0)
    built = build_student(StudentSettings(width=0.1), classes=10, channels=1, size=8)
    write_files(built.model.eval(), "fp32", (1, 8, 8), place)
    write_description(place, read_description(place))
    return place


@pytest.fixture
def uri(member):
    return f"models:/digits-{member.trial_id}/1"


def tell(store, record, folder, monkeypatch):
    tracker = open_tracker(store, folder)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return tracker


def expected(student, images):
    model, transform = tkd_search.load(student)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return model(transform.batch(planes)).softmax(1).numpy()


def test_a_version_predicts_what_the_student_does(
    folder, record, member, student, uri, database, still, monkeypatch
):
    tell(database, record, folder, monkeypatch)
    right = expected(student, IMAGES)
    shutil.rmtree(folder)  # nothing but the store is needed
    model = mlflow.pyfunc.load_model(uri)
    np.testing.assert_allclose(model.predict(IMAGES), right, atol=1e-6)
    assert model.predict(IMAGES[:0]).shape == (0, 10)
    known = model.metadata
    assert known.run_id == MlflowClient(database, database).get_model_version(uri.split("/")[1], "1").run_id
    assert known.model_size_bytes == known.metadata["bytes"] == member.bytes
    assert known.metadata["test_accuracy"] == member.test_accuracy
    assert known.metadata["classes"] == list("0123456789")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES[:, :7], r"\(300, 7, 8, 1\) does not match expected shape \(-1, 8, 8, 1\)"),
        (IMAGES[..., 0], "does not match expected shape"),
        (IMAGES.astype(np.float32), "dtype of input float32 does not match expected dtype uint8"),
    ],
)
def test_other_images_are_refused(folder, record, student, uri, database, still, monkeypatch, images, words):
    tell(database, record, folder, monkeypatch)
    model = mlflow.pyfunc.load_model(uri)
    with pytest.raises(MlflowException, match=words):
        model.predict(images)


def test_without_mlflow_in_between_other_images_are_refused_as_well(student):
    with pytest.raises(UserError, match="uint8 of shape"):
        StudentModel(student).predict(IMAGES[:, :7])


def test_fractions_cast_to_black_images_are_warned_about(student):
    model = StudentModel(student)
    with pytest.warns(UserWarning, match="0 to 255"):
        model.predict((IMAGES / 255).astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(IMAGES)


def test_a_replayed_ending_writes_the_same_model(folder, record, student, uri, database, still, monkeypatch):
    tracker = tell(database, record, folder, monkeypatch)
    before = mlmodel(uri)
    (tracker.folder / "acknowledged.json").unlink()
    drain_here(open_tracker(database, folder))
    assert mlmodel(uri) == before


def mlmodel(uri):
    return mlflow.artifacts.load_text(f"{uri}/MLmodel")


def test_a_student_without_description_is_registered_all_the_same(
    folder, record, member, database, still, monkeypatch
):
    (folder / member.path / "student.json").write_text("{}")
    tracker = tell(database, record, folder, monkeypatch)
    assert not str(tracker.close())
    client = MlflowClient(database, database)
    files = {one.trial_id: artifacts(client, version_of(client, one).run_id, "model") for one in record.front}
    assert files.pop(member.trial_id) == ["model/model.safetensors", "model/student.json"]
    assert all(names == [f"model/{name}" for name in SHIPPED] for names in files.values())


def version_of(client, member):
    (version,) = client.search_model_versions(f"name='digits-{member.trial_id}'")
    return version


@pytest.mark.slow
def test_mlflow_predicts_through_a_server_with_proxied_artifacts(
    folder, record, student, uri, tmp_path, empty_database, still, monkeypatch
):
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server" / "server.db")
    server = Server(tmp_path / "server").start()
    try:
        tell(server.uri, record, folder, monkeypatch)
        right = expected(student, IMAGES[:3])
        np.testing.assert_allclose(mlflow.pyfunc.load_model(uri).predict(IMAGES[:3]), right, atol=1e-6)
        (tmp_path / "in.json").write_text(json.dumps({"inputs": IMAGES[:3].tolist()}))
        command = [sys.executable, "-m", "mlflow", "models", "predict", "--model-uri", uri]
        command += ["--env-manager", "local", "--input-path", "in.json", "--output-path", "out.json"]
        subprocess.run(command, cwd=tmp_path, check=True)
    finally:
        server.kill()
    found = json.loads((tmp_path / "out.json").read_text())["predictions"]
    np.testing.assert_allclose(found, right, atol=1e-6)
