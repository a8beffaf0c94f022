import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tests.tracking.conformance import TrackerConformance
from tests.tracking.conftest import run_folder
from tests.tracking.stores import assert_exactly_once, drain_here, stored, wait_until
from tests.tracking.synthetic import synthetic_search, synthetic_start, taught_by, tell_all
from tkd_search.results.records import EpochRecord, Reference, TrialRecord
from tkd_search.tracking import MlflowTracker, open_tracker
from tkd_search.tracking.mlflow.model_registry import OFF_FRONT
from tkd_search.tracking.mlflow.reader import find_search, read_search
from tkd_search.tracking.mlflow.writer_status import read_runs
from tkd_search.tracking.uri import login_to_environment


class TestTrackerWithoutStore(TrackerConformance):
    def open(self, folder, database):
        return open_tracker("none", folder)


class TestMlflowTracker(TrackerConformance):
    def open(self, folder, database):
        return open_tracker(database, folder)

    def check(self, record, database):
        assert_exactly_once(database, record)


def test_a_search_is_stored_once_and_comes_back_as_it_was(folder, record, database, still):
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    assert_exactly_once(database, record)
    ids = tracker.ids()
    assert find_search(database, "digits") == ids.parent_run_id
    again = read_search(database, ids.parent_run_id)
    assert again.trials == tuple(
        rounded(trial, reason=trial.reason or "full budget") for trial in record.trials
    )
    assert again.front == tuple(rounded(member) for member in record.front)
    assert again.history == record.history
    same = ("name", "dataset", "classes", "status", "big_model", "full_budget", "hypervolume")
    assert {key: getattr(again, key) for key in same} == {key: getattr(record, key) for key in same}
    assert set(read_runs(folder / "mlflow")[ids.parent_run_id]) == {trial.trial_id for trial in record.trials}


def test_a_method_that_was_not_searched_comes_back_with_the_search(folder, record, database, still):
    tracker, start = open_tracker(database, folder), synthetic_start()
    fixed = dataclasses.replace(start, config={**start.config, "method.name": "dkd"})
    tell_all(tracker, taught_by(record, "dkd"), folder, fixed)
    drain_here(tracker)
    again = read_search(database, tracker.ids().parent_run_id)
    assert [again.method_of(member) for member in again.front] == ["dkd"] * len(record.front)


def test_the_metric_comes_back_with_the_search(folder, record, database, still):
    tracker, start = open_tracker(database, folder), synthetic_start()
    measured = dataclasses.replace(start, config={**start.config, "search.metric": "macro_f1"})
    tell_all(tracker, dataclasses.replace(record, metric="macro_f1"), folder, measured)
    drain_here(tracker)
    assert read_search(database, tracker.ids().parent_run_id).metric == "macro_f1"


def test_a_search_by_latency_comes_back_with_its_costs(tmp_path, database, still):
    record = synthetic_search(trials=6, cost="latency")
    int8 = Reference(format="int8", bytes=9, latency=0.9, ratio=0.3, val_accuracy=0.9, test_accuracy=0.9)
    record = dataclasses.replace(record, big_model=dataclasses.replace(record.big_model, references=(int8,)))
    folder, start = run_folder(tmp_path, record), synthetic_start()
    by_latency = dataclasses.replace(start, config={**start.config, "search.cost": "latency"})
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder, by_latency)
    assert tracker.logged().cost == "latency"
    assert [trial.latency for trial in tracker.logged().trials.values()] == [t.latency for t in record.trials]
    drain_here(tracker)
    assert_exactly_once(database, record)
    again = read_search(database, tracker.ids().parent_run_id)
    assert (again.cost, again.reference_point, again.big_model) == ("latency", (0.61, 0.1), record.big_model)
    assert [member.trial_id for member in again.front] == [member.trial_id for member in record.front]
    assert [member.cost for member in again.front] == [member.cost for member in record.front]
    assert {trial.trial_id: trial.epochs for trial in again.trials} == {
        trial.trial_id: trial.epochs for trial in record.trials
    }


def rounded(record, **more):
    config = {
        key: float(f"{value:.6g}") if isinstance(value, float) else value
        for key, value in record.config.items()
    }
    return dataclasses.replace(record, config=config, **more)


def test_replaying_the_whole_spool_changes_nothing(folder, record, database, still):
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    before = stored(database)
    (folder / "mlflow" / "acknowledged.json").unlink()
    drain_here(open_tracker(database, folder))
    assert (folder / "mlflow" / "acknowledged.json").exists()
    assert stored(database) == before


def test_a_resumed_search_goes_on_in_the_same_runs(folder, record, database, still):
    cut = 4
    first = open_tracker(database, folder)
    first.search_started(synthetic_start())
    first.big_model(record.big_model)
    trial = record.trials[0]
    first.trial_started(trial)
    for epoch in trial.epochs[:cut]:
        first.epoch(trial.trial_id, epoch)
    drain_here(first)
    second = open_tracker(
        database, folder
    )  # the trial goes on from an older state: epochs 3 and 4 come again
    drifted = [dataclasses.replace(epoch, val_accuracy=0.5) for epoch in trial.epochs[cut - 2 : cut]]
    for epoch in drifted:
        second.epoch(trial.trial_id, epoch)
    tell_all(second, record, folder)
    drain_here(second)
    assert_exactly_once(database, record)
    again = read_search(database, second.ids().parent_run_id)
    assert again.trials[0].epochs == trial.epochs


def test_a_driver_that_is_stopped_leaves_nothing_running(folder, record, database, still):
    tracker = open_tracker(database, folder)
    tracker.search_started(synthetic_start())
    tracker.big_model(record.big_model)
    for trial in record.trials[:2]:
        tracker.trial_started(trial)
    tracker.search_stopped()
    drain_here(tracker)
    runs = MlflowClient(database).search_runs([tracker.ids().experiment_id])
    assert {run.info.status for run in runs} == {"KILLED"}
    assert len(runs) == 3
    tracker.search_stopped()  # in one batch with what follows
    tracker.search_started(synthetic_start())
    tracker.trial_started(record.trials[0])
    drain_here(tracker)
    runs = MlflowClient(database).search_runs([tracker.ids().experiment_id])
    assert sorted(run.info.status for run in runs) == ["KILLED", "RUNNING", "RUNNING"]


def test_a_search_of_the_same_name_in_a_new_folder_is_another_search(tmp_path, record, database, still):
    parents = set()
    for place in ("a", "b"):
        folder = run_folder(tmp_path / place, record)
        tracker = open_tracker(database, folder)
        tracker.search_started(synthetic_start())
        drain_here(tracker)
        parents.add(tracker.ids().parent_run_id)
    assert len(parents) == 2


def test_a_trial_pushed_off_the_front_loses_its_tag(folder, record, database, still):
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    smaller = dataclasses.replace(record, front=record.front[:-1])
    tracker.search_ended(smaller)
    drain_here(tracker)
    again = read_search(database, tracker.ids().parent_run_id)
    assert [member.trial_id for member in again.front] == [member.trial_id for member in smaller.front]


def untested(record, front):
    """The record of that search as Ctrl-C leaves it: nothing is tested yet."""
    nothing = {"test_accuracy": math.nan, "retention": math.nan, "latency_ms": {}}
    front = tuple(dataclasses.replace(member, **nothing) for member in front)
    return dataclasses.replace(record, status="interrupted", front=front)


def registered(database):
    """Trial → (tag ``pareto``, description) of its registered version, of which there is one."""
    client = MlflowClient(database, database)
    versions = [
        version
        for model in client.search_registered_models()
        for version in client.search_model_versions(f"name='{model.name}'")
    ]
    assert len({version.name for version in versions}) == len(versions)
    return {v.tags["tkd.trial_id"]: (v.tags["pareto"], v.description) for v in versions}


def test_models_are_registered_with_their_test_figures_when_the_search_is_complete(
    folder, record, database, still
):
    tracker = open_tracker(database, folder)
    tell_all(tracker, untested(record, record.front), folder)
    drain_here(tracker)
    assert registered(database) == {}
    run = trial_page(database, record.front[0])
    assert run.data.tags["pareto"] == "true"
    assert "test_accuracy" not in run.data.metrics
    tracker.search_ended(record)
    drain_here(tracker)
    found = registered(database)
    assert set(found) == {member.trial_id for member in record.front}
    for member in record.front:
        pareto, text = found[member.trial_id]
        assert pareto == "true"
        assert f"test accuracy {member.test_accuracy:.2%} ({member.retention:.1%} kept)" in text


def test_a_version_says_what_the_search_knows_now(folder, record, database, still):
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    first = record.front[0]
    MlflowClient(database, database).update_model_version(
        f"digits-{first.trial_id}", "1", "test accuracy nan%"
    )
    tracker.search_ended(record)
    drain_here(tracker)
    assert f"test accuracy {first.test_accuracy:.2%}" in registered(database)[first.trial_id][1]


def test_a_student_pushed_off_the_front_stays_registered_and_says_so(folder, record, database, still):
    *rest, last = record.front
    tracker = open_tracker(database, folder)
    tell_all(tracker, record, folder)
    drain_here(tracker)
    before = registered(database)
    for ending in (untested(record, rest), dataclasses.replace(record, front=tuple(rest))):
        tracker.search_ended(ending)
        drain_here(tracker)
        after = registered(database)
        assert after.pop(last.trial_id) == ("false", OFF_FRONT + before[last.trial_id][1])
        assert after == {member.trial_id: before[member.trial_id] for member in rest}
        assert trial_page(database, rest[0]).data.metrics["test_accuracy"] == rest[0].test_accuracy
    tracker.search_ended(record)
    drain_here(tracker)
    assert registered(database) == before


def trial_page(database, member):
    client = MlflowClient(database, database)
    home = client.get_experiment_by_name("tkd_search/digits").experiment_id
    (run,) = client.search_runs([home], f"tags.`tkd.trial_id` = '{member.trial_id}'")
    return run


def test_what_mlflow_refuses_is_noted_and_the_rest_is_written(folder, record, database, still):
    tracker = open_tracker(database, folder)
    tracker.search_started(synthetic_start())
    tracker.trial_started(
        TrialRecord(
            trial_id="0000", student="student", config={}, bytes=1000, parameters=250, state="running"
        )
    )
    too_long = "x" * 300
    tracker.epoch("0000", EpochRecord(epoch=1, val_accuracy=0.5, metrics={too_long: 1.0, "loss": 2.0}))
    drain_here(tracker)
    left = tracker.close()
    assert left.refused == 1
    assert left.events == 0
    assert "refused.jsonl" in str(left)
    assert too_long in (folder / "mlflow" / "refused.jsonl").read_text()
    points = stored(database)["digits", "0000"][1]
    assert {("loss", 1), ("val_accuracy", 1), ("bytes", 0)} <= set(points)


def test_an_extended_search_keeps_its_parameters_and_says_what_changed(folder, record, database, still):
    for epochs in (27, 81):
        tracker = open_tracker(database, folder)
        start = synthetic_start()
        config = {**start.config, "train.epochs": epochs}
        tracker.search_started(dataclasses.replace(start, full_budget=epochs, config=config))
        drain_here(tracker)
    left = tracker.close()
    assert not str(left)
    assert read_search(database, tracker.ids().parent_run_id).full_budget == 81


def test_a_store_that_never_answers_costs_a_bounded_wait_and_is_stated(folder, record):
    tracker = open_tracker("http://me:topsecret@127.0.0.1:9", folder)
    tell_all(tracker, record, folder)
    left = tracker.close(timeout=5)
    assert left.events == sum(1 for _ in (folder / "events" / "events.jsonl").open())
    assert "not in the tracking store yet" in str(left)
    assert f"report {folder}" in left.hint
    assert left.reason
    for path in (folder / "mlflow").iterdir():
        assert "topsecret" not in path.read_text(), path


@pytest.mark.faults
def test_a_killed_writer_is_started_again_and_nothing_is_lost(folder, record, database):
    tracker = MlflowTracker(database, folder)
    tracker.search_started(synthetic_start())
    wait_until(lambda: tracker.ids().parent_run_id)
    tracker._writer.send_signal(signal.SIGKILL)
    tracker._writer.wait()
    tell_all(tracker, record, folder)
    assert tracker.close(timeout=240).events == 0
    assert_exactly_once(database, record)


@pytest.mark.faults
def test_the_writer_finishes_what_a_killed_driver_left(folder, record, database):
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, os.getcwd())\n"
        "from tests.tracking.synthetic import synthetic_search, tell_all\n"
        "from tkd_search.tracking import open_tracker\n"
        "folder = Path(sys.argv[1]); tracker = open_tracker(sys.argv[2], folder)\n"
        "tell_all(tracker, synthetic_search(trials=8, seed=3), folder); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), database], check=False)
    event_log = folder / "events" / "events.jsonl"
    total = sum(1 for _ in event_log.open())
    wait_until(lambda: acknowledged(folder) == total - 1)
    # Files are written after the figures.
    wait_until(lambda: not alive(json.loads((folder / "mlflow" / "writer.json").read_text())["pid"]))
    assert_exactly_once(database, record)


def test_the_spool_replays_into_another_store(folder, record, database, still):
    tracker = open_tracker("http://127.0.0.1:9", folder)
    tell_all(tracker, record, folder)
    drain_here(open_tracker(database, folder))
    assert_exactly_once(database, record)


def test_a_login_in_the_address_goes_where_mlflow_looks_for_it(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    assert login_to_environment("http://host:5000/x") == "http://host:5000/x"
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ
    assert login_to_environment("https://me:p%40ss@host/x") == "https://host/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss")


def test_a_search_that_was_not_tracked_is_stored_whole_once_it_is(folder, record, database, still):
    tell_all(open_tracker("none", folder), record, folder)
    drain_here(open_tracker(database, folder))
    assert_exactly_once(database, record)


def test_importing_tracking_brings_no_mlflow_and_no_plots():
    heavy = ("mlflow", "plotly", "matplotlib", "pandas", "torch")
    script = f"import sys, tkd_search.tracking; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def acknowledged(folder):
    try:
        return json.loads((folder / "mlflow" / "acknowledged.json").read_text())["sequence"]
    except OSError:
        return -1


def alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(") ")[1][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_synthetic_searches_differ_by_seed():
    assert synthetic_search(seed=1) != synthetic_search(seed=2)


def test_the_experiment_may_be_named_and_the_machine_watched(folder, record, database, still, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = open_tracker(database, folder, experiment="mine", system_metrics=True)
    tracker.search_started(synthetic_start())
    drain = drain_here(tracker)
    wait_until(
        lambda: any(name.startswith("system/") for name, _ in stored(database, "mine")["digits", ""][1])
    )
    drain.close()
