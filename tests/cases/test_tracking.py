"""Stores whose artifacts fail, whose runs users delete, or that MLflow refuses (cases 3, 19, 20, 22)."""

import dataclasses
import os
import shutil

import pytest
from mlflow import MlflowClient

from tests.tracking.stores import assert_exactly_once, drain_here, stored
from tests.tracking.synthetic import tell_all
from tkd_search.cluster.node_checks import check_tracking
from tkd_search.errors import UserError
from tkd_search.tracking import open_tracker
from tkd_search.tracking.mlflow.reader import read_search
from tkd_search.tracking.mlflow.writer import Deadline, Drain, work
from tkd_search.tracking.uri import absolute_uri, check_uri

EXPERIMENT = "tkd_search/digits"


class Ending(Deadline):
    """The driver has asked the writer to end: it may try a few times more."""

    def __init__(self, rounds):
        self.time, self.rounds = 0.0, rounds

    def wait(self, seconds):
        self.rounds -= 1

    def over(self):
        return self.rounds <= 0


def test_an_artifact_root_that_fails_delays_no_figure(tmp_path, folder, record, database, still):
    root = tmp_path / "artifacts"
    root.write_text("a file, where a folder should be")
    MlflowClient(database, database).create_experiment(EXPERIMENT, artifact_location=str(root / "here"))
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    assert work(Drain(database, folder / "mlflow"), Ending(20)) == 3
    left = tracker.close(timeout=0)
    assert left.events == left.refused == 0
    assert "Files are not in the tracking store yet (" in str(left)
    assert "artifacts" in left.undelivered
    found = stored_figures(database)
    assert set(found) == {"", *(trial.trial_id for trial in record.trials)}
    for trial in record.trials:
        assert len(found[trial.trial_id][1]) >= trial.epochs_trained
        assert found[trial.trial_id][0] != "RUNNING"
    assert found[""][0] == "FINISHED"
    root.unlink()
    again = open_tracker(database, folder)
    assert again.left() > 0
    assert work(Drain(database, folder / "mlflow"), Ending(20)) == 0
    assert not str(again.close(timeout=0))
    assert_exactly_once(database, record)


def stored_figures(uri):
    """Return trial ('' = the search) → (status, every point of every metric)."""
    client = MlflowClient(uri, uri)
    home = client.get_experiment_by_name(EXPERIMENT).experiment_id
    return {
        run.data.tags.get("tkd.trial_id", ""): (
            run.info.status,
            [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)],
        )
        for run in client.search_runs([home], max_results=1000)
    }


@pytest.mark.parametrize("victim", ["parent", "all"])
def test_a_run_that_a_user_deletes_is_whole_again(folder, record, database, still, victim):
    half = dataclasses.replace(record, trials=record.trials[:4], status="interrupted")
    tracker = open_tracker(database, folder)
    tell_all(tracker, dataclasses.replace(half, front=record.front[:0]), folder)
    drain_here(tracker)
    delete(database, victim)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    assert_exactly_once(database, record)
    again = read_search(database, tracker.ids().parent_run_id)
    assert again.big_model.bytes == record.big_model.bytes
    assert {trial.trial_id for trial in again.trials} == {trial.trial_id for trial in record.trials}


def delete(uri, victim):
    client = MlflowClient(uri, uri)
    home = client.get_experiment_by_name(EXPERIMENT).experiment_id
    for run in client.search_runs([home]):
        if victim == "all" or run.data.tags["tkd.kind"] == "search":
            client.delete_run(run.info.run_id)


def test_a_run_that_is_deleted_while_it_is_written_is_restored(folder, record, database, still):
    tracker = open_tracker(database, folder)
    drain = Drain(tracker.uri, tracker.folder)

    def between():
        while drain.step() or drain.deliver():
            pass
        delete(database, "parent")

    tell_all(tracker, record, folder, between={3: between})
    while drain.step() or drain.deliver():
        pass
    assert_exactly_once(database, record)
    assert drain.status.refused == 0


def test_a_store_that_lost_the_search_gets_all_of_it_again(folder, record, database, empty_database, still):
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    shutil.copy(empty_database, database.removeprefix("sqlite:///"))
    again = open_tracker(database, folder)
    again.search_ended(record)
    drain_here(again)
    assert_exactly_once(database, record)
    assert stored(database)


@pytest.mark.parametrize(
    "uri", ["./mlruns", "mlruns", "file:///tmp/mlruns", "htp://host", "sqlite:mlflow.db", "C:/x"]
)
def test_a_uri_that_mlflow_refuses_is_refused_before_the_search(uri):
    with pytest.raises(UserError) as caught:
        check_uri(uri)
    assert "sqlite:///mlflow.db" in str(caught.value)
    assert check_tracking(uri, {}).state == "wrong"


@pytest.mark.parametrize("uri", ["", "none", "http://host:5000", "postgresql+psycopg://h/db", "databricks"])
def test_a_uri_that_mlflow_takes_is_taken(uri):
    check_uri(uri)


def test_a_folder_that_cannot_be_written_is_named_before_the_search(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        check_uri(f"sqlite:///{tmp_path}/file/mlflow.db")
    check_uri(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: found a folder that cannot be written"):
        check_uri("")


def test_a_home_in_a_uri_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_uri("sqlite:///~/mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
