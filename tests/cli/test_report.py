import dataclasses
import json
import shutil

import pytest
from mlflow import MlflowClient

from tests.cli.calling import call
from tests.cli.conftest import Quiet, make_run
from tests.full_disk import limited
from tests.tracking.stores import drain_here, stored
from tests.tracking.synthetic import synthetic_search, tell_all
from tkd_search.results.summary import read_record, write_summary


@pytest.fixture
def tracked(tmp_path, empty_database, monkeypatch):
    """A finished search, delivered to a real sqlite store, with the store's ids in its summary."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = make_run(tmp_path / "runs" / "digits", synthetic_search(14))
    drain = drain_here(Quiet("sqlite:///mlflow.db", folder))
    write_summary(synthetic_search(14, **vars(drain.status.ids)), folder)
    return folder


def test_the_report_is_drawn_from_the_store_and_added_to_it(tracked, tmp_path):
    (tracked / "record.json").write_text(
        (tracked / "record.json").read_text().replace("alexnet", "from files")
    )
    done = call("report", "runs/digits")
    assert done.code == 0, done.err
    assert done.out.split() == [f"runs/digits/pareto.{kind}" for kind in ("csv", "png", "html")]
    text = (tracked / "pareto.html").read_text()
    assert "alexnet" in text
    assert "from files" not in text
    files = stored(f"sqlite:///{tmp_path}/mlflow.db")["digits", ""][2]
    assert {"pareto.html", "pareto.png", "pareto.csv"} <= set(files)


def test_a_search_that_goes_on_after_an_end_is_drawn_from_its_log(tracked, tmp_path):
    """The store still has the front of that end."""
    record = read_record(tracked)
    *ended, last = record.trials
    running = (*ended, dataclasses.replace(last, state="running"))
    write_summary(dataclasses.replace(record, status="interrupted", trials=running, front=()), tracked)
    before = stored(f"sqlite:///{tmp_path}/mlflow.db")
    assert call("report", "runs/digits").code == 0
    assert len((tracked / "pareto.csv").read_text().splitlines()) == 1 + len(record.front)
    assert stored(f"sqlite:///{tmp_path}/mlflow.db") == before


def test_a_search_of_which_the_store_lacks_a_part_is_drawn_from_files(tracked, tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    parent = json.loads((tracked / "summary.json").read_text())["mlflow"]
    children = client.search_runs([parent["experiment_id"]], "tags.pareto = 'true'")
    client.delete_run(children[0].info.run_id)
    done = call("report", "runs/digits")
    assert done.code == 0
    assert "does not have the whole search" in done.err
    assert children[0].data.tags["tkd.trial_id"] in (tracked / "pareto.csv").read_text()


def test_a_report_written_to_another_folder_is_not_added_to_the_store(tracked, tmp_path):
    before = stored(f"sqlite:///{tmp_path}/mlflow.db")
    done = call("report", "digits", "--output", "there")
    assert (done.code, done.err) == (0, "")
    assert stored(f"sqlite:///{tmp_path}/mlflow.db") == before


def test_without_its_store_a_report_is_drawn_from_files_with_a_message(tracked, tmp_path):
    ids = json.loads((tracked / "summary.json").read_text())["mlflow"]
    (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    done = call("report", "runs/digits")
    assert done.code == 0
    assert "made from runs/digits instead" in done.err
    assert "not added" not in done.err
    assert ids["parent_run_id"]
    assert (tracked / "pareto.html").exists()


@pytest.mark.parametrize(("limit", "file"), [(100, "csv"), (20_000, "html")])
def test_a_full_disk_gives_one_message_and_no_partial_file(output, limit, file):
    done = limited(
        limit,
        *("-m", "tkd_search", "report", "runs/digits", "--files", "--output", "there"),
        cwd=output.parent,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"there/pareto.{file}: found a full disk" in done.stderr
    assert "same command again" in done.stderr
    kinds = ["csv", "html", "png"]
    made = {f"pareto.{kind}" for kind in kinds[: kinds.index(file)]}
    assert {path.name for path in (output.parent / "there").iterdir()} == made


def test_a_report_of_files_needs_no_store(output):
    done = call("report", "runs/digits", "--files", "--output", "there")
    assert done.code == 0
    assert done.err == ""
    assert sorted(path.name for path in (output.parent / "there").iterdir()) == [
        "pareto.csv",
        "pareto.html",
        "pareto.png",
    ]


def test_several_searches_are_drawn_side_by_side(output):
    make_run(output / "other", synthetic_search(20, seed=4, name="other"), logged=False)
    done = call("report", "runs/digits", "other", "--files")
    assert done.code == 0
    assert "front of other" in (output / "report-digits-other" / "pareto.html").read_text()


def test_searches_of_one_name_are_named_after_their_folders(output):
    make_run(output.parent / "elsewhere" / "digits", synthetic_search(20, seed=4), logged=False)
    done = call("report", "runs/digits", "elsewhere/digits", "--files", "--output", "both")
    assert done.code == 0
    text = (output.parent / "both" / "pareto.html").read_text()
    assert "front of runs/digits" in text
    assert "front of elsewhere/digits" in text


def test_a_search_is_found_by_its_name_in_a_store(tracked, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert call("report", "digits", "--tracking-uri", uri, "--output", "there").code == 0
    done = call("report", "unknown", "--tracking-uri", uri, "--output", "there")
    assert done.code == 2
    assert "no search named 'unknown'" in done.err


@pytest.mark.faults
def test_events_that_a_search_could_not_deliver_are_delivered_by_report(output, tmp_path):
    """The store was down during the whole search and is up now."""
    folder = output / "late"
    record = synthetic_search(8, seed=3, name="late")
    make_run(folder, record, logged=False)
    blocker = tmp_path / "missing"
    blocker.touch()
    tracker = Quiet(f"sqlite:///{tmp_path}/missing/mlflow.db", folder)
    tell_all(tracker, record, folder)
    assert tracker.close(3).events
    blocker.unlink()
    done = call("report", "runs/late")
    assert done.code == 0, done.err
    assert "delivering" in done.err
    assert json.loads((folder / "summary.json").read_text())["mlflow"]["parent_run_id"]
    assert len(stored(f"sqlite:///{tmp_path}/missing/mlflow.db")) == 9
