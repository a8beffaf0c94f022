"""The Python interface."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.synthetic import synthetic_search
from tkd_search import Experiment
from tkd_search.api import Result, _one, finished_record
from tkd_search.config.experiment_file import load_config
from tkd_search.errors import UserError
from tkd_search.report import write_report
from tkd_search.results.summary import read_record, read_summary, reopen, write_summary
from tkd_search.tracking.tracker import Tracker


def test_overrides_are_dotted_keys_with_plain_values(tmp_path):
    experiment = Experiment.from_yaml(
        name="mine", **{"method.k": 3, "student.width": {"float": [0.1, 0.5]}, "output": str(tmp_path)}
    )
    config = experiment.config
    assert (config.name, config.settings().method.k, config.folder) == ("mine", 3, tmp_path / "mine")
    assert "method.k" not in config.space.leaves
    assert config.space.leaves["student.width"].high == 0.5


def test_a_wrong_override_names_the_nearest_key():
    with pytest.raises(UserError, match=r"did you mean method\.k"):
        Experiment.from_yaml(**{"method.kk": 3})


def test_a_result_is_a_table_and_shows_its_picture(tmp_path):
    record = synthetic_search(14)
    write_report(record, tmp_path)
    result = Result(record, tmp_path)
    front = result.front
    assert list(front.bytes) == sorted(member.bytes for member in record.front)
    assert {"student", "ratio", "test_accuracy", "latency_ms_1", "method.name"} <= set(front)
    shown = result._repr_html_()
    assert shown.startswith('<img width="640" src="data:image/png;base64,')
    assert all(member.trial_id in shown for member in record.front)


def test_a_printed_result_is_its_counts_its_front_and_its_folder(tmp_path):
    record = synthetic_search(14)
    head, names, *rows, folder = str(Result(record, tmp_path)).splitlines()
    assert head == "digits: complete, 14 trials (10 complete, 4 stopped)"
    assert names.split() == ["trial_id", "student", "bytes", "val_accuracy", "test_accuracy", "retention"]
    assert [row.split()[0] for row in rows] == [member.trial_id for member in record.front]
    first = record.front[0]
    assert rows[0].split()[-4:] == [
        str(first.bytes),
        *(f"{figure:.4f}" for figure in (first.val_accuracy, first.test_accuracy, first.retention)),
    ]
    assert folder == str(tmp_path)
    none = dataclasses.replace(record, front=(), trials=())
    assert str(Result(none, tmp_path)).splitlines()[:2] == [
        "digits: complete, no trials",
        "no student on the front",
    ]


def test_a_result_without_a_front_is_an_empty_table(tmp_path):
    result = Result(dataclasses.replace(synthetic_search(14), front=()), tmp_path)
    assert len(result.front) == 0
    assert "<table" in result._repr_html_()
    with pytest.raises(UserError, match="t0001"):
        result.load("t0001")


def test_one_training_starts_from_the_first_starting_point():
    first = "{method.name: kd, student.name: cut, student.width: 0.4, training.lr: 0.011}"
    config = load_config(None, [f"search.enqueue=[{first}]"], name="n")
    one = _one(config, {"student.width": 0.7})
    settings = one.settings()
    assert one.name.startswith("n-one-")
    assert not one.space.leaves
    assert (settings.student.name, settings.student.width, settings.training.lr) == ("cut", 0.7, 0.011)


def test_a_finished_search_is_read_and_not_run(tmp_path):
    experiment = Experiment.from_yaml(name="digits", output=str(tmp_path))
    record = synthetic_search(14)
    write_summary(record, tmp_path / "digits")
    (tmp_path / "digits" / "config.yaml").write_text(experiment.config.to_yaml())
    assert experiment.search().record == record
    with pytest.raises(UserError, match="seed: was 0, is 1"):
        Experiment.from_yaml(name="digits", output=str(tmp_path), seed=1).search()


def test_a_search_whose_end_is_not_in_its_log_is_not_finished(tmp_path):
    experiment = Experiment.from_yaml(name="digits", output=str(tmp_path))
    folder = experiment.config.folder
    write_summary(synthetic_search(14), folder)
    (folder / "config.yaml").write_text(experiment.config.to_yaml())
    assert finished_record(experiment.config) is not None
    tracker = Tracker(folder)
    tracker.driver_started(0.0)
    tracker.close()
    assert finished_record(experiment.config) is None


def test_a_renamed_run_on_a_storage_is_refused_with_its_earlier_name(tmp_path):
    settings = {"output": str(tmp_path / "runs"), "storage": str(tmp_path / "store")}
    old = Experiment.from_yaml(name="before", **settings)
    old.config.folder.mkdir(parents=True)
    (old.config.folder / "config.yaml").write_text(old.config.to_yaml())
    new = Experiment.from_yaml(name="after", **settings)
    old.config.folder.rename(new.config.folder)
    with pytest.raises(UserError, match="--name before"):
        finished_record(new.config)


def test_an_extended_search_that_is_killed_at_once_is_not_complete(tmp_path):
    experiment = Experiment.from_yaml(name="digits", output=str(tmp_path), **{"search.trials": 4})
    folder = experiment.config.folder
    write_summary(synthetic_search(14), folder)
    (folder / "config.yaml").write_text(experiment.config.to_yaml())
    more = Experiment.from_yaml(name="digits", output=str(tmp_path), **{"search.trials": 8})
    assert finished_record(experiment.config) is not None
    assert finished_record(more.config) is None
    reopen(folder)
    (folder / "config.yaml").write_text(more.config.to_yaml())
    assert finished_record(more.config) is None
    assert read_record(folder).status == "interrupted"


NOTEBOOK = """
import json, sys
from tkd_search import Experiment
from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker
from tkd_search.tracking.uri import StoreIds

def close_last(tracker, *arguments, close=MlflowTracker.close):
    left = close(tracker, *arguments)
    (tracker.run / "closed").touch()
    return left

def ids_last(tracker, ids=MlflowTracker.ids):  # of a store that answers late
    return ids(tracker) if (tracker.run / "closed").exists() else StoreIds()

MlflowTracker.close, MlflowTracker.ids = close_last, ids_last
small = {"training.epochs": 2, "training.batch_size": 256, "big_model.epochs": 2, "data.views": 1}
experiment = Experiment.from_yaml(name="note", storage=sys.argv[1], **small)
result = experiment.distil({"method.name": "kd", "student.width": 0.1})
model, transform = result.load(result.front.trial_id[0])
import torch
logits = model(transform(torch.zeros(1, 8, 8, dtype=torch.uint8))[None])
record = result.record
found = [len(record.trials), list(logits.shape), len(result.front), record.method]
print(json.dumps([result.folder.name, *found]))
"""


@pytest.mark.slow
def test_one_training_gives_a_student_that_can_be_loaded(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, str(tmp_path / "storage")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, trials, shape, front, method = json.loads(done.stdout.splitlines()[-1])
    assert name.startswith("note-one-")
    assert (trials, shape, front, method) == (1, [1, 10], 1, "kd")
    assert read_summary(tmp_path / "runs" / name)["mlflow"]["parent_run_id"]
    # The tracker writes to the folder until it is closed: the last copy comes later.
    assert (tmp_path / "storage" / "runs" / name / "closed").exists()


def test_a_search_with_other_data_is_not_resumed(tmp_path):
    experiment = Experiment.from_yaml(name="begun", output=str(tmp_path))
    folder = experiment.config.folder
    folder.mkdir()
    (folder / "config.yaml").write_text(experiment.config.to_yaml())
    (folder / "data.json").write_text('{"digest": "of other images"}')
    with pytest.raises(UserError, match="other images or labels"):
        experiment.search()
    assert sorted(file.name for file in folder.iterdir()) == ["config.yaml", "data.json"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    from tkd_search.engine.run_dir.run_lock import run_lock

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a folder that can be written"), run_lock(tmp_path / "file" / "run"):
        pass


def test_export_refuses_other_data_than_the_search(tmp_path):
    from tkd_search.cli.export import data_of

    config = load_config(None, ["data.train_limit=50"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    digest = data_of(tmp_path).digest  # of a run without data.json
    (tmp_path / "data.json").write_text(json.dumps({"digest": digest}))
    assert data_of(tmp_path).digest == digest
    (tmp_path / "data.json").write_text(json.dumps({"digest": "another"}))
    with pytest.raises(UserError, match="the same data"):
        data_of(tmp_path)
