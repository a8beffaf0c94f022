"""Files of a run that are cut short, damaged or removed (cases 13, 23; optuna#5138)."""

import json
import shutil

import optuna
import pytest
import torch

from tests.cli.calling import call
from tests.tracking.synthetic import synthetic_search, tell_all
from tkd_search.api import check_same_data
from tkd_search.config.experiment_file import parse_config
from tkd_search.errors import UserError
from tkd_search.export.shipping import write_files
from tkd_search.files import read_json
from tkd_search.optimize.history import create_or_load, earlier_trials
from tkd_search.optimize.study_storage import open_storage
from tkd_search.results.records import BigModelRecord, FrontMember, SearchRecord, TrialRecord
from tkd_search.results.summary import write_summary
from tkd_search.tracking.event_log import events_file
from tkd_search.tracking.search_log import read_search_log
from tkd_search.tracking.tracker import Tracker

DAMAGE = [b"{\x00\x00\n", b"null\n", b'{"a": 1}\n', b"\xff\xfe\n", b"\n"]


@pytest.fixture
def journal(tmp_path):
    """A study's journal of four trials, with the number of the line at which the third begins."""
    path = tmp_path / "old" / "study.journal"
    path.parent.mkdir()
    storage = open_storage(path)
    create_or_load(storage, "old", "bytes")
    study = optuna.load_study(study_name="old", storage=storage)
    for number in range(4):
        if number == 2:
            middle = path.read_bytes().count(b"\n")
        trial = study.ask()
        trial.set_user_attr("config", {})
        study.tell(trial, (1000, 0.5))
    return path, middle


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_in_a_journal_keeps_the_trials_before_it(journal, damage):
    path, middle = journal
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:middle], damage, *lines[middle + 1 :]]))
    with pytest.raises(UserError, match=r"(?s)journal: found a damaged record.*search\.warm_start=\[old\]"):
        open_storage(path)
    assert len(optuna.load_study(study_name="old", storage=open_storage(path, repair=False)).trials) == 2


def test_a_whole_journal_is_read_whole(journal):
    path, _ = journal
    for repair in (True, False):
        assert len(optuna.load_study(study_name="old", storage=open_storage(path, repair=repair)).trials) == 4
    assert earlier_trials(path) is not None


@pytest.mark.parametrize("line", [1, 2, 3, 5])
def test_an_event_log_with_a_damaged_line_is_read(tmp_path, line):
    record = synthetic_search(4)
    tracker = Tracker(tmp_path)
    tell_all(tracker, record, tmp_path)
    tracker.close()
    lines = events_file(tmp_path).read_bytes().splitlines(keepends=True)
    lines[line] = b"\x00" * 20 + b"\n"
    events_file(tmp_path).write_bytes(b"".join(lines))
    assert len(read_search_log(tmp_path).trials) >= 3


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_json_file_of_a_run_is_one_message(tmp_path, content):
    (tmp_path / "data.json").write_bytes(content)
    for read in (lambda: read_json(tmp_path / "data.json"), lambda: check_same_data(tmp_path, "x")):
        with pytest.raises(UserError, match=r"(?s)data\.json: found a damaged file.*delete it"):
            read()


@pytest.fixture
def run(tmp_path, monkeypatch, trained):
    """The folder of a finished search over the digits with one student."""
    monkeypatch.chdir(tmp_path)
    settings, student = trained
    config = parse_config({"name": "seen", "student": {"name": "mobilenet_v2", "width": 0.1}})
    folder = config.folder
    (folder / "trials" / "t0001").mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    write_files(student.model, settings.format, (1, 8, 8), folder / "trials" / "t0001")
    sizes = {"bytes": 1000, "parameters": 250}
    member = FrontMember(
        trial_id="t0001",
        student="s",
        ratio=0.01,
        test_accuracy=0.9,
        retention=0.9,
        config={},
        path="students/t0001",
        latency_ms={},
        val_accuracy=0.9,
        **sizes,
    )
    trial = TrialRecord(trial_id="t0001", student="s", config={}, state="complete", **sizes)
    big = BigModelRecord(name="f", bytes=10**6, parameters=1, val_accuracy=1.0, test_accuracy=1.0)
    record = SearchRecord(
        name="seen",
        dataset="digits",
        seed=0,
        classes=10,
        status="complete",
        big_model=big,
        trials=(trial,),
        front=(member,),
        full_budget=1,
        hypervolume=0.5,
        reference_point=(1.0, 0.1),
        wall_seconds=1.0,
        history=((1, 0.5),),
    )
    write_summary(record, folder)
    return folder


def test_pick_says_that_a_student_was_removed_and_export_writes_it_again(run):
    torch.set_num_threads(1)
    for arguments in ([], ["--quiet"], ["--json"]):
        found = call("pick", run, "--knee", *arguments)
        assert found.code == 2
        assert "its folder was removed" in found.err
        assert f"export {run} t0001 writes it again" in found.err
    made = call("export", run, "t0001", "--no-mlflow")
    assert made.code == 0, made.err
    found = call("pick", run, "--knee", "--json")
    assert json.loads(found.out)["path"] == f"{run}/students/t0001"
    shutil.rmtree(run / "students")
    shutil.rmtree(run / "trials")
    gone = call("export", run, "t0001", "--no-mlflow")
    assert gone.code == 2
    assert "cannot be read" in gone.err
