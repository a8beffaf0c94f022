"""``summary.json`` and ``record.json``: keys, null figures, refusal of damaged files."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.synthetic import synthetic_search
from tkd_search.errors import UserError
from tkd_search.results.summary import read_record, read_summary, summarise, write_summary


@pytest.mark.parametrize("cost", ["bytes", "latency"])
def test_the_summary_has_exactly_the_keys_of_schema_one(tmp_path, cost):
    record = synthetic_search(cost=cost, tracking_uri="sqlite:///x.db", experiment_id="1", parent_run_id="r")
    write_summary(record, tmp_path)
    plain = json.loads((tmp_path / "summary.json").read_text())
    assert list(plain) == [
        *("schema", "name", "dataset", "seed", "status", "big_model", "trials", "epochs", "hypervolume"),
        *("reference_point", "wall_seconds", "mlflow", "front", "metric", "references", "cost"),
    ]
    assert plain["schema"] == 1
    assert plain["metric"] == "accuracy"
    assert set(plain["big_model"]) == {"name", "bytes", "parameters", "val_accuracy", "test_accuracy"}
    assert plain["trials"] == {"total": 32, "completed": 16, "stopped_early": 16, "failed": 0}
    assert plain["epochs"] == {"spent": sum(len(t.epochs) for t in record.trials), "full_budget": 27}
    assert plain["mlflow"] == {"tracking_uri": "sqlite:///x.db", "experiment_id": "1", "parent_run_id": "r"}
    assert all(
        set(member)
        == {
            *("trial_id", "student", "bytes", "parameters", "ratio", "val_accuracy", "test_accuracy"),
            *("retention", "config", "path", "cost"),
        }
        for member in plain["front"]
    )
    assert plain["cost"] == cost
    costs = [member["cost"] for member in plain["front"]]
    assert costs == sorted(member.cost for member in record.front)
    assert plain["reference_point"] == [record.big_model.cost, 0.1]
    assert read_record(tmp_path) == record


def test_figures_that_are_not_finite_are_null_in_strict_json(tmp_path):
    record = synthetic_search(trials=8)
    big = dataclasses.replace(record.big_model, test_accuracy=float("nan"))
    write_summary(dataclasses.replace(record, big_model=big, hypervolume=float("inf")), tmp_path)

    def refuse(text):
        raise AssertionError(text)

    plain = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert plain["big_model"]["test_accuracy"] is None
    assert plain["hypervolume"] is None


def test_a_search_without_a_front_has_a_summary(tmp_path):
    record = dataclasses.replace(synthetic_search(trials=2), front=(), trials=(), status="interrupted")
    write_summary(record, tmp_path)
    assert read_summary(tmp_path)["trials"]["total"] == 0


def test_a_search_may_be_named_like_a_file(tmp_path):
    write_summary(synthetic_search(3), tmp_path / "mine.json")
    assert read_summary(tmp_path / "mine.json") == read_summary(tmp_path / "mine.json" / "summary.json")


def test_a_missing_summary_is_refused_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"summary\.json.*no such file"):
        read_summary(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_summary_is_refused_with_the_wrong_key(tmp_path_factory, data):
    plain = summarise(synthetic_search(trials=6))
    key = data.draw(st.sampled_from(sorted(plain)))
    damage = data.draw(st.sampled_from(["missing", None, {"x": 1}, [{"x": 1}], True]))
    legal = {
        "references": ["missing"],
        "metric": ["missing"],
        "cost": ["missing"],
        "hypervolume": [None],
        "wall_seconds": [None],
        "reference_point": [[{"x": 1}]],
    }
    if damage in legal.get(key, []):
        return
    plain[key] = damage
    if damage == "missing":
        del plain[key]
    path = tmp_path_factory.mktemp("summary") / "summary.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError, match=key):
        read_summary(path)


def test_a_file_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_summary(tmp_path)


def test_a_damaged_record_is_refused_with_the_wrong_key(tmp_path):
    write_summary(synthetic_search(trials=2), tmp_path)
    plain = json.loads((tmp_path / "record.json").read_text())
    del plain["trials"][1]["bytes"]
    (tmp_path / "record.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match=r"trials\.1\.bytes: Field required"):
        read_record(tmp_path)
