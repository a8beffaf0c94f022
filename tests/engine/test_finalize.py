"""The end of a search: what is written although a later step fails."""

import json
import math
import threading
import time
from types import SimpleNamespace

import pytest

from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.engine import finalize as module
from tkd_search.engine import pipeline
from tkd_search.engine.finalize import TESTED_FILE, finalize
from tkd_search.engine.progress import Silent
from tkd_search.engine.search_state import SearchState
from tkd_search.errors import UserError
from tkd_search.export.shipping import write_files
from tkd_search.models import build_student, model_bytes, model_parameters
from tkd_search.results.records import BigModelRecord, EpochRecord, TrialRecord
from tkd_search.results.summary import read_record, read_summary
from tkd_search.tracking.tracker import Tracker

BIG = BigModelRecord(name="alexnet", bytes=900_000, parameters=220_000, val_accuracy=0.98, test_accuracy=0.9)
TRIALS = ("t0000", "t0001")


class Shown(Silent):
    """Progress that keeps the notes, and the stages with their steps."""

    def __init__(self):
        self.lines, self.stages, self.steps = [], [], []

    def note(self, text):
        self.lines.append(text)

    def stage(self, name, total):
        self.stages.append((name, total))

    def advance(self, done, text=""):
        self.steps.append(done)


DONE = {"kind": "done"}


def result_of(trial_id):
    return {"kind": "tested", "trial_id": trial_id, "test_accuracy": 0.5, "latency_ms": {1: 2.0}}


@pytest.fixture
def end(tmp_path, monkeypatch):
    """Call ``finalize`` over two trained students; ``results`` of a member's test by its trial."""
    config = load_config(None, ["student.width=0.1", f"output={tmp_path}"], name="ended")
    data = load_data(config.settings().data)
    student = build_student(config.settings().student, classes=10, channels=1, size=8)
    for trial_id in TRIALS:
        (tmp_path / "trials" / trial_id).mkdir(parents=True)
        write_files(student.model.eval(), "fp32", (1, 8, 8), tmp_path / "trials" / trial_id)
    front = tuple(
        TrialRecord(
            trial_id=trial_id,
            student="mobilenet_v2 ×0.1",
            config={},
            bytes=model_bytes(student.model),
            parameters=model_parameters(student.model),
            state="complete",
            epochs=(EpochRecord(epoch=1, val_accuracy=0.5, metrics={}),),
        )
        for trial_id in TRIALS
    )
    state = SearchState(
        running=0, complete=2, stopped=0, not_trained=0, failed=0, epochs=2, front=front, hypervolume=0.5
    )
    controller = SimpleNamespace(
        search_state=lambda: state, trials=lambda: front, history=[(1, 0.5)], latency_of=lambda point: None
    )
    prepared = SimpleNamespace(data=data, data_folder="data", big_model=BIG)
    config.folder.mkdir()

    def ended(results, progress=None, status="complete"):
        def on_one_group(queue, job):
            yield from results([member["trial_id"] for member in job["members"]])

        monkeypatch.setattr(pipeline, "_on_one_group", on_one_group)
        return finalize(
            config,
            config.folder,
            str(tmp_path / "trials"),
            prepared,
            controller,
            None,
            Tracker(config.folder),
            progress=progress or Silent(),
            status=status,
            seconds=lambda: 1.0,
        )

    return config.folder, ended


def results_of(trial_ids):
    """Return the results of a job that succeeds."""
    return [*map(result_of, trial_ids), DONE]


def test_a_report_that_fails_is_a_warning_and_the_record_is_written(end):
    folder, ended = end
    (folder / "pareto.png").mkdir()  # a file cannot replace a folder
    shown = Shown()
    record = ended(results_of, progress=shown)
    assert read_record(folder) == record
    assert read_summary(folder)["status"] == "complete"
    (line,) = shown.lines
    assert line.startswith("warning: the report was not written: IsADirectoryError")
    assert f"python -m tkd_search report {folder}" in line


def test_members_are_tested_at_once_each_shown_and_saved_as_it_ends(end):
    folder, ended = end
    both, shown = threading.Barrier(len(TRIALS), timeout=60), Shown()

    def together(trial_ids):
        both.wait()  # breaks where one job waits for the end of another
        return results_of(trial_ids)

    record = ended(together, progress=shown)
    assert shown.stages == [("front", len(TRIALS))]
    assert shown.steps == [0, 1, 2]
    assert set(json.loads((folder / TESTED_FILE).read_text())) == set(TRIALS)
    assert [member.test_accuracy for member in record.front] == [0.5, 0.5]


def test_each_member_is_tested_once_although_the_test_of_another_fails(end):
    folder, ended = end
    first_is_saved, jobs = threading.Event(), []

    def one_fails(trial_ids):
        if trial_ids == [TRIALS[0]]:
            yield result_of(TRIALS[0])
            first_is_saved.set()
            yield DONE
        else:
            first_is_saved.wait(60)
            yield {"kind": "failed", "reason": "OutOfMemoryError: CUDA out of memory", "trace": "…"}

    with pytest.raises(UserError, match="OutOfMemoryError"):
        ended(one_fails)
    kept = read_record(folder)
    assert (kept.status, kept.front[0].test_accuracy) == ("interrupted", 0.5)
    assert math.isnan(kept.front[1].test_accuracy)
    assert list(json.loads((folder / TESTED_FILE).read_text())) == [TRIALS[0]]
    shown = Shown()
    record = ended(lambda trial_ids: jobs.append(trial_ids) or results_of(trial_ids), progress=shown)
    assert jobs == [[TRIALS[1]]]
    assert shown.steps == [1, 2]
    assert [member.test_accuracy for member in record.front] == [0.5, 0.5]


def test_a_member_that_cannot_be_tested_does_not_keep_others_from_it(end):
    folder, ended = end
    failed = threading.Event()

    def first_fails(trial_ids):
        if trial_ids == [TRIALS[0]]:
            failed.set()
            yield {"kind": "failed", "reason": "no verified ONNX file", "trace": "…"}
        else:
            failed.wait(60)
            time.sleep(0.2)
            yield from results_of(trial_ids)

    with pytest.raises(UserError, match="no verified ONNX file"):
        ended(first_fails)
    assert list(json.loads((folder / TESTED_FILE).read_text())) == [TRIALS[1]]


def test_an_interrupt_while_the_report_is_drawn_leaves_a_search_to_finish(end, monkeypatch):
    folder, ended = end

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ended(results_of)
    assert read_record(folder).status == "interrupted"


def test_an_extension_that_is_interrupted_keeps_the_figures_that_were_measured(end):
    folder, ended = end
    untested = ended(None, status="interrupted")
    assert all(math.isnan(member.test_accuracy) for member in untested.front)
    complete = ended(results_of)
    assert ended(None, status="interrupted").front == complete.front
    assert read_summary(folder)["status"] == "interrupted"


def test_a_big_model_with_test_accuracy_zero_leaves_retention_nan() -> None:
    trial = TrialRecord(trial_id="t0000", student="s", config={}, bytes=10, parameters=2, state="complete")
    f = BigModelRecord(name="f", bytes=100, parameters=20, val_accuracy=0.0, test_accuracy=0.0)
    prepared = SimpleNamespace(big_model=f)
    member = module._member(trial, prepared, {"test_accuracy": 0.5}, None)
    assert math.isnan(member.retention)
    assert member.ratio == 0.1
