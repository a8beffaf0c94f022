"""The main job as a process of its own, with real data, Ray and an MLflow store."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tests.tracking.synthetic import synthetic_search
from tkd_search.config.experiment_file import load_config
from tkd_search.results.summary import write_summary
from tkd_search.tracking.search_log import read_search_log

SMALL = [
    "--set=training.epochs=3",
    "--set=training.batch_size=256",
    "--set=student.width={float: [0.1, 0.3], log: true}",
    "--set=big_model.epochs=3",
    "--set=data.views=2",
]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "tkd_search.run", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str, timeout: float = 240) -> tuple[int, str]:
    process = start(folder, *arguments)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def wait_for_epochs(log: Path, process: "subprocess.Popen[str]", count: int, deadline: float = 200) -> None:
    """Wait until the log has so many epochs."""
    end = time.monotonic() + deadline
    while time.monotonic() < end and process.poll() is None:
        if log.exists() and log.read_text().count('"kind":"epoch"') >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"no {count} epochs; exit code {process.poll()}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "method.kk=3"], ["method.kk", "did you mean method.k"]),
        (["--config", "configs/digit.yaml"], ["configs/digits.yaml"]),
        (
            ["--set", "resources.workers_per_trial=999", "--set", "training.batch_size=4000"],
            ["999 workers ×"],
        ),
        (["--config", "mnist", "--set", "data.path=/nowhere"], ["/nowhere"]),
        (["--set", "search.pruner=nonsense", "--dry-run"], ["search.pruner", "stratified"]),
        (["--set", "method.k=99", "--set", "method.masks=2", "--dry-run"], ["method.k", "taps × 2 masks"]),
        (
            ["--set", "student.width={float: [0.1, 0.3]}", "--set", "search.pruner=nonsense"],
            ["search.enqueue.1.student.width = 0.5 (searched: a number in [0.1, 0.3])", "search.pruner"],
        ),
        (["--address", "127.0.0.1:1"], ["--address 127.0.0.1:1: found no listener", "ray start"]),
        (["--nonsense"], ["--nonsense"]),
    ],
)
def test_wrong_input_gives_one_message_and_writes_nothing(tmp_path, arguments, words):
    code, output = run(tmp_path, *arguments)
    assert code == 2, output
    assert "Traceback" not in output
    for word in words:
        assert word in output
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_plan_space_and_time_and_writes_nothing(tmp_path):
    given = ["method.k=3", "search.max_latency=5ms", "student.width={float: [0.1, 0.3]}"]
    code, output = run(tmp_path, "--dry-run", *(f"--set={text}" for text in given))
    assert code == 0, output
    for word in ("student.width", "estimated time", "22 trials", "at once", "method.name is tkd"):
        assert word in output
    assert "space: decoded images 115 kB, kept in memory; bank " in output
    assert "more than 5 ms for one image" in output
    assert "ms at the small end of the space" in output
    assert "left to the sampler: search.enqueue.1.student.width = 0.5" in output
    assert "  training.epochs: 12\n" in output  # set by the file
    assert "memory_budget_mb" not in output  # left at its default
    assert list(tmp_path.iterdir()) == []


IMPORTED = """
import sys
from tkd_search.run import main
code = 0
try:
    main()
except SystemExit as exit:
    code = exit.code
heavy = [name for name in ("torch", "ray", "mlflow", "pandas") if name in sys.modules]
print(f"exit code {code}, imported {heavy}")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "Examples:"),
        (["--version"], 0, "tkd_search"),
        (["--set", "method.kk=3"], 2, "did you mean method.k"),
    ],
)
def test_what_needs_no_search_imports_no_heavy_library(tmp_path, arguments, code, words):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"exit code {code}, imported []"


def check_summary(folder: Path, trials: int) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    counts = summary["trials"]
    assert summary["status"] == "complete"
    assert counts["total"] == trials
    assert counts["failed"] == 0
    assert counts["completed"] + counts["stopped_early"] == trials
    for member in summary["front"]:
        weights = folder / member["path"] / "model.safetensors"
        assert weights.stat().st_size == member["bytes"]
        assert member["ratio"] == pytest.approx(member["bytes"] / summary["big_model"]["bytes"])
        assert member["retention"] == pytest.approx(
            member["test_accuracy"] / summary["big_model"]["test_accuracy"]
        )
    return summary


def check_study(folder: Path, name: str, trials: int) -> None:
    """Check that no trial is running and that complete ones were trained for all epochs."""
    from tkd_search.optimize.study import earlier_trials

    trials_of_study = earlier_trials(folder / "study.journal", name)
    assert len(trials_of_study) == trials
    assert {trial.state for trial in trials_of_study} <= {"complete", "stopped"}
    assert all(max(trial.curve) == 3 for trial in trials_of_study if trial.state == "complete")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_search_the_same_command_again_and_its_winner_on_fresh_seeds(tmp_path):
    code, output = run(tmp_path, *SMALL, "--set=search.trials=5", "--name", "small")
    assert code == 0, output
    folder = tmp_path / "runs" / "small"
    check_summary(folder, 5)
    check_study(folder, "small", 5)
    assert (tmp_path / "mlflow.db").exists()
    for noise in ("WARNING", "Traceback", "raylet", "INFO"):
        assert noise not in output
    again, output = run(tmp_path, *SMALL, "--set=search.trials=5", "--name", "small")
    assert again == 0
    assert "front of small" in output
    refused, output = run(tmp_path, *SMALL, "--set=search.trials=5", "--set=seed=7", "--name", "small")
    assert refused == 2
    assert "seed: was 0, is 7" in output
    winner = json.loads((folder / "summary.json").read_text())["front"][-1]
    check_retrained(folder, winner)


def check_retrained(folder: Path, winner: dict) -> None:
    """Check that ``retrain`` trains a member on fresh seeds, adds seeds later and keeps the front."""
    summary = (folder / "summary.json").read_bytes()
    for seeds in (1, 2):
        command = ["retrain", folder.name, winner["trial_id"], "--seeds", str(seeds)]
        done = subprocess.run(
            [sys.executable, "-m", "tkd_search", *command],
            cwd=folder.parents[1],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert f"| {winner['trial_id']} | {winner['student']} |" in done.stdout
        table = pd.read_csv(folder / "retrained.csv")
        assert table.seed.tolist() == [1000, 1001][:seeds]
        assert (table.bytes == winner["bytes"]).all()
        assert table.test_accuracy.between(0.05, 1).all()
        if seeds == 1:
            first = table
    assert table.head(1).equals(first)
    assert (folder / "summary.json").read_bytes() == summary


def test_a_search_without_a_student_exits_with_one(tmp_path):
    """So that `… && python -m tkd_search pick …` stops there; also if the command is repeated."""
    config = load_config(None, [f"output={tmp_path / 'runs'}"], name="bare")
    trials = synthetic_search().trials
    failed = tuple(replace(trial, state="failed", reason="too wide") for trial in trials)
    bare = synthetic_search(name="bare", trials=len(trials))
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_text(config.to_yaml())
    for front, code in ((bare.front, 0), ((), 1)):
        write_summary(replace(bare, status="complete", trials=failed, front=front), config.folder)
        found, output = run(tmp_path, "--name", "bare")
        assert found == code, output
        assert "too wide" in output


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_search_whose_students_are_all_too_slow_ends_with_their_reasons(tmp_path):
    code, output = run(tmp_path, *SMALL, "--set=search.trials=3", "--set=search.max_latency=1us")
    assert code == 1, output
    assert "3 too slow to train" in output
    assert "above search.max_latency 0.001 ms" in output
    folder = tmp_path / "runs" / "digits"
    summary = json.loads((folder / "summary.json").read_text())
    counts = {"total": 3, "completed": 0, "stopped_early": 3, "failed": 0, "not_trained": 3}
    assert summary["trials"] == counts
    assert (summary["status"], summary["front"]) == ("complete", [])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([summary["mlflow"]["experiment_id"]], "tags.`tkd.kind` = 'trial'")
    assert len(runs) == 3
    for one in runs:
        assert one.data.tags["state"] == "stopped"
        assert "above search.max_latency" in one.data.tags["reason"]


@pytest.mark.faults
def test_a_killed_search_is_resumed_without_loss_or_repetition(tmp_path):
    command = [*SMALL, "--set=search.trials=5", "--name", "killed"]
    folder = tmp_path / "runs" / "killed"
    process = start(tmp_path, *command)
    wait_for_epochs(folder / "events" / "events.jsonl", process, 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code, output = run(tmp_path, *command)
    assert code == 0, output
    check_summary(folder, 5)
    check_study(folder, "killed", 5)
    entries = [json.loads(line) for line in (folder / "events" / "events.jsonl").read_text().splitlines()]
    epochs = [(e["data"]["trial_id"], e["data"]["record"]["epoch"]) for e in entries if e["kind"] == "epoch"]
    assert len(epochs) == len(set(epochs))


@pytest.mark.faults
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)]
)
def test_ctrl_c_leaves_an_interrupted_run_that_the_printed_command_resumes(tmp_path, number):
    command = [*SMALL, "--set=search.trials=12", "--name", "interrupted"]
    folder = tmp_path / "runs" / "interrupted"
    process = start(tmp_path, *command)
    wait_for_epochs(folder / "events" / "events.jsonl", process, 2)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert "resume with: python -m tkd_search.run" in output
    before = json.loads((folder / "summary.json").read_text())
    assert before["status"] == "interrupted"
    spent = read_search_log(folder).seconds
    assert before["wall_seconds"] < spent  # which includes writing the report
    began = time.monotonic()
    code, output = run(tmp_path, *command)
    assert code == 0, output
    ended = check_summary(folder, 12)
    assert spent < ended["wall_seconds"] < spent + time.monotonic() - began


@pytest.mark.slow
def test_a_search_with_two_workers_per_trial(tmp_path):
    code, output = run(
        tmp_path, *SMALL, "--set=search.trials=3", "--set=resources.workers_per_trial=2", "--name", "two"
    )
    assert code == 0, output
    check_summary(tmp_path / "runs" / "two", 3)
