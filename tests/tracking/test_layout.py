import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracking.synthetic import synthetic_search, synthetic_start, taught_by, tell_all
from tkd_search.results.json_values import from_plain, to_plain
from tkd_search.results.records import SearchRecord, SearchStart, TrialRecord
from tkd_search.tracking.event_log import Event, all_events
from tkd_search.tracking.mlflow.layout import (
    PARENT,
    Context,
    changes,
    fold,
    metric_name,
    param_text,
    param_value,
)
from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker
from tkd_search.tracking.mlflow.run_description import describe
from tkd_search.tracking.uri import absolute_uri, run_url
from tkd_search.units import human_bytes


@pytest.fixture
def events(tmp_path, monkeypatch):
    monkeypatch.setattr(MlflowTracker, "_watch", lambda self, now: None)
    tracker = MlflowTracker("sqlite:///nowhere.db", tmp_path)
    record = synthetic_search(trials=5, seed=1)
    tell_all(tracker, record, tmp_path)
    return list(all_events(tmp_path / "events" / "events.jsonl"))


def context_of(events):
    context = Context()
    for event in events:
        context = fold(context, event)
    return context


def test_one_change_per_run_the_parent_first(events):
    found = changes(context_of(events), events)
    assert [change.trial_id for change in found] == [PARENT, "0000", "0001", "0002", "0003", "0004"]
    child = found[1]
    assert child.params["train.lr"]
    assert child.tags["state"] == "complete"
    assert child.status == "FINISHED"
    assert sum(point.key == "val_accuracy" for point in child.points) == 27
    assert {point.key for point in child.points if point.step == 0} == {
        "bytes",
        "parameters",
        "ratio",
        "trial_seconds",
    }


def trial_event(kind, time, **data):
    data = {"trial_id": "0000", "state": "complete", "reason": "", "seconds": 1.0, **data}
    return Event(sequence=time, time=time, kind=kind, data=data)


def test_a_trial_that_failed_before_it_was_built_has_no_size(events):
    """A size of 0 would put failures on top of runs that are sorted by it."""
    told = {"trial_id": "0000", "student": "none", "params": {}, "bytes": 0, "parameters": 0}
    failed = Event(sequence=0, time=1, kind="trial_started", data=told)
    (change,) = changes(context_of(events), [failed])
    assert (change.name, change.points) == ("0000 none", ())


def test_an_end_is_a_change_of_the_trial_and_of_the_search():
    figures = {"step": 3, "hypervolume": 0.5, "front_size": 2.0, "epochs_spent": 40.0}
    parent, trial = changes(Context(), [trial_event("trial_ended", 2, search=figures)])
    assert (trial.trial_id, trial.status, trial.ended) == ("0000", "FINISHED", 2)
    assert parent.trial_id == PARENT
    assert {(point.key, point.value, point.step) for point in parent.points} == {
        ("hypervolume", 0.5, 3),
        ("front_size", 2.0, 3),
        ("epochs_spent", 40.0, 3),
    }


def test_a_trial_that_starts_again_runs_and_keeps_its_parameters():
    again = trial_event("trial_started", 3, again=True)
    (change,) = changes(Context(), [again])
    assert (change.status, change.name, change.params, change.points) == ("RUNNING", "", {}, ())


@given(cut=st.integers(0, 60))
def test_however_the_events_are_cut_into_batches_the_same_is_written(cut):
    whole, parts = {}, {}
    events = _events()
    context = context_of(events)
    for name, batches in ((whole, [events]), (parts, [events[:cut], events[cut:]])):
        for batch in batches:
            for change in changes(context, batch):
                points, params, tags = name.setdefault(change.trial_id, (set(), {}, {}))
                points.update(change.points)
                params.update(change.params)
                tags.update(change.tags)
    assert whole == parts


def _events(cache=[]):  # noqa: B006 (made once for all examples)
    if not cache:
        import tempfile
        from pathlib import Path

        class Quiet(MlflowTracker):
            def _watch(self, now):
                pass

        with tempfile.TemporaryDirectory() as folder:
            tell_all(Quiet("sqlite:///nowhere.db", Path(folder)), synthetic_search(trials=4), Path(folder))
            cache += all_events(Path(folder) / "events" / "events.jsonl")
    return cache


def test_records_survive_json():
    record = synthetic_search(trials=6)
    assert from_plain(SearchRecord, json.loads(json.dumps(to_plain(record)))) == record
    start = synthetic_start()
    assert from_plain(SearchStart, {**to_plain(start), "from_the_future": 1}) == start


def test_every_field_of_a_trial_record_that_is_told_is_known():
    assert {"trial_id", "state", "reason", "seconds"} <= {one.name for one in dataclasses.fields(TrialRecord)}


@given(
    st.one_of(
        st.booleans(), st.integers(-(10**9), 10**9), st.floats(1e-9, 1e9), st.lists(st.integers(), max_size=3)
    )
)
def test_param_values_come_back(value):
    again = param_value(param_text(value))
    assert again == pytest.approx(value, rel=1e-5)
    assert type(again) is type(value) or isinstance(value, float)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("weight.features.5", "weight.features.5"),
        ("loss(total)", "loss_total_"),
        ("w:half/2 b", "w:half/2 b"),
    ],
)
def test_metric_names_are_what_mlflow_takes(name, clean):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(metric_name(name))
    assert metric_name(name) == clean


def test_addresses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert absolute_uri("") == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert absolute_uri("") == "http://host:5000"
    assert run_url("http://host:5000/", "1", "abc").startswith("http://host:5000/#/experiments/1/runs/abc")
    assert run_url("sqlite:///x.db", "1", "abc") == ""


def test_the_description_holds_the_front_the_picture_and_the_command():
    record = synthetic_search(trials=12)
    text = describe(to_plain(record), "python -m tkd_search.run --name digits", "run7")
    assert "get-artifact?path=preview.png&run_uuid=run7" in text
    assert "python -m tkd_search.run --name digits" in text
    assert all(f"| {member.trial_id}&ensp;|" in text for member in record.front)
    taught = describe(to_plain(taught_by(record, "dkd")), "", "run7")
    assert taught.count("| dkd&ensp;|") == len(record.front)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (128_000, "128 kB"), (999_600, "1 MB"), (2.5e9, "2.5 GB")],
)
def test_human_bytes(count, text):
    assert human_bytes(count) == text
