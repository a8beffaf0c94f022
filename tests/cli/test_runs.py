import dataclasses
import json
import os
import subprocess
import sys

import pytest

from tests.cli.calling import call
from tests.cli.conftest import make_run
from tests.tracking.synthetic import synthetic_search
from tkd_search.engine.run_dir.find_runs import disk_bytes
from tkd_search.engine.run_dir.run_lock import DRIVER_FILE
from tkd_search.results.summary import write_summary
from tkd_search.tracking.search_log import SearchLog, read_search_log


def test_list_and_status_of_a_finished_search(output):
    done = call("runs", "list")
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("digits")]
    assert line.split()[1:4] == ["complete", "32", "8"]
    done = call("runs", "status", "digits")
    assert "digits: complete" in done.out
    assert "32 begun: 0 running, 16 stopped, 16 complete, 0 failed" in done.out
    assert "hypervolume" in done.out


def test_a_damaged_search_does_not_hide_the_others(output):
    (output / "broken").mkdir()
    for name in ("config.yaml", "record.json"):
        (output / "broken" / name).write_text("{")
    done = call("runs", "list")
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()[1:3]] == [
        ["broken", "damaged"],
        ["digits", "complete"],
    ]


def test_a_missing_folder_is_no_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("runs", "list")
    assert (done.code, done.out.strip()) == (0, "no searches in runs")


def test_a_live_search_is_running_and_a_killed_one_interrupted(output, hold):
    folder = output / "digits"
    for name in ("record.json", "summary.json"):
        (folder / name).unlink()
    assert "interrupted" in call("runs", "list").out
    hold(folder)
    assert "running" in call("runs", "list").out
    assert f"process {os.getpid()}" in call("runs", "status", "digits").out


def test_a_killed_search_without_a_store_shows_its_state_and_its_report(output):
    folder = output / "untracked"
    record = synthetic_search(name="untracked")
    make_run(folder, record, tracked=False)
    for name in ("record.json", "summary.json"):
        (folder / name).unlink()
    (line,) = [line for line in call("runs", "list").out.splitlines() if line.startswith("untracked")]
    assert line.split()[1:4] == ["interrupted", "32", "3"]
    status = call("runs", "status", "untracked").out
    assert f"best validation {max(e.val_accuracy for t in record.trials for e in t.epochs):.2%}" in status
    assert "tracking" not in status
    assert call("report", folder).code == 0
    assert len((folder / "pareto.csv").read_text().splitlines()) == 1 + len(record.front)


@pytest.mark.parametrize("begun", [5, None])
def test_a_resumed_search_is_shown_as_far_as_its_log_goes(output, begun):
    folder, record = output / "digits", synthetic_search()
    *trials, last = record.trials[:begun]
    trials.append(dataclasses.replace(last, state="running"))
    earlier = dataclasses.replace(record, status="interrupted", trials=tuple(trials), front=())
    write_summary(earlier, folder)
    (line,) = [line for line in call("runs", "list").out.splitlines() if line.startswith("digits")]
    assert line.split()[1:3] == ["interrupted", str(len(record.trials))]
    assert call("report", "--files", folder).code == 0
    assert len((folder / "pareto.csv").read_text().splitlines()) == 1 + len(record.front)


def test_the_log_adds_up_to_the_search(output):
    record = synthetic_search()
    log = read_search_log(output / "digits")
    assert tuple(log.trials.values()) == record.trials
    assert log.figures["hypervolume"] == record.history[-1][1]
    assert tuple(log.history) == record.history
    assert read_search_log(output) == SearchLog()


DRIVER = """
import signal, sys
from pathlib import Path
from tkd_search.engine.run_dir.run_lock import run_lock
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
with run_lock(folder):
    try:
        print("held", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        (folder / "stopped").write_text("by SIGINT")
"""


@pytest.fixture
def driver(output):
    """A process that holds the lock of the run ``digits`` until it is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(output / "digits")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_stop_interrupts_a_live_driver(output, driver):
    assert call("runs", "stop", "digits").code == 0
    assert driver.wait(10) == 0
    assert (output / "digits" / "stopped").exists()


def test_a_search_whose_driver_was_killed_is_not_running(output, driver):
    assert "running" in call("runs", "list").out
    driver.kill()
    driver.wait()
    assert "running" not in call("runs", "list").out
    assert "not running" in call("runs", "stop", "digits").err


def test_stop_signals_no_process_that_is_not_the_driver_of_the_note(output, driver):
    """It may be a later one with the same id: the driver's is in a container, or the clock was set."""
    file = output / "digits" / DRIVER_FILE
    note = json.loads(file.read_text())
    file.write_text(json.dumps({**note, "created": note["created"] - 3600}))
    done = call("runs", "stop", "digits")
    assert (done.code, "is not found" in done.err) == (2, True)
    assert driver.poll() is None
    assert not (output / "digits" / "stopped").exists()


def test_stop_refuses_a_search_that_does_not_run_or_runs_on_another_machine(output, hold):
    assert "not running" in call("runs", "stop", "digits").err
    hold(output / "digits")
    note = {"pid": 1, "created": 0.0, "host": "elsewhere"}
    (output / "digits" / DRIVER_FILE).write_text(json.dumps(note))
    assert "running (process 1 on elsewhere)" in call("runs", "status", "digits").out
    done = call("runs", "stop", "digits")
    assert done.code == 2
    assert "runs on elsewhere" in done.err


@pytest.fixture
def cache(output):
    for name in ("bank-1", "data-1", "big_model-1"):
        place = output / ".cache" / name
        place.mkdir(parents=True)
        (place / "x.safetensors").write_bytes(b"x" * 5000)
    return output / ".cache"


def test_clean_removes_checkpoints_and_banks_and_keeps_results(output, cache):
    before = {path for path in output.rglob("*") if path.is_file()}
    assert "would be freed" in call("runs", "clean", "--dry-run").out
    assert {path for path in output.rglob("*") if path.is_file()} == before
    assert call("runs", "clean").code == 0
    left = {path for path in output.rglob("*") if path.is_file()}
    gone = {path.name for path in before - left}
    assert gone == {"checkpoint.pt", "x.safetensors"}
    assert sorted(path.name for path in cache.iterdir()) == ["big_model-1"]
    assert "nothing to remove" in call("runs", "clean").out


def test_clean_keep_front_removes_other_trials_weights(output):
    call("runs", "clean", "--keep-front")
    front = {member.trial_id for member in synthetic_search().front}
    assert {path.name for path in (output / "digits" / "trials").iterdir()} == front
    assert {path.name for path in (output / "digits" / "students").iterdir()} == front


def test_clean_leaves_live_killed_and_unfinished_searches_alone(output, cache, hold):
    unfinished = dataclasses.replace(synthetic_search(seed=1), name="half", status="interrupted")
    trial = dataclasses.replace(unfinished.trials[9], state="running")
    trials = (*unfinished.trials[:9], trial, *unfinished.trials[10:])
    make_run(output / "half", dataclasses.replace(unfinished, trials=trials), logged=False)
    running = output / "half" / "trials" / trial.trial_id / "checkpoint"
    running.mkdir(exist_ok=True)
    make_run(output / "killed", synthetic_search(name="killed"), logged=False)
    for name in ("record.json", "summary.json"):
        (output / "killed" / name).unlink()
    hold(output / "digits")
    sizes = {name: disk_bytes(output / name) for name in ("digits", "killed")}
    call("runs", "clean", "--keep-front")
    assert {name: disk_bytes(output / name) for name in sizes} == sizes
    assert running.exists()
    assert len(list(cache.iterdir())) == 3
