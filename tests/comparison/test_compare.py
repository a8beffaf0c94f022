"""``compare`` as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SMALL = [
    "--set=training.epochs=2",
    "--set=training.batch_size=256",
    "--set=student.name=mobilenet_v2",
    "--set=student.width=0.1",
    "--set=student.format=int8",
    "--set=student.depth=0.34",
    "--set=data.train_limit=400",
    "--set=data.views=1",
    "--set=big_model.epochs=2",
]


def compare(folder: Path, *arguments: str) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"}
    command = [sys.executable, "-m", "tkd_search", "compare", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    return done.returncode, done.stdout, done.stderr


SIZE = ["--set=student.name=mobilenet_v2", "--set=student.width=0.2", "--set=student.format=int8"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "kd,tdk"], ["tdk", "tkd"]),
        ([*SIZE, "--base", "ce", "--methods", "kd"], ["--base", "ce"]),
        ([], ["student.name", "--set student.name="]),
        ([*SIZE, "--ablate", "x:method.nope=1"], ["method.nope"]),
        (
            [*SIZE, "--variant", "x:student.width=0.1"],
            ["x: student.width", "equal in size"],
        ),
    ],
)
def test_wrong_input_gives_one_message_and_writes_nothing(tmp_path, arguments, words):
    code, _, errors = compare(tmp_path, *arguments)
    assert code == 2, errors
    assert "Traceback" not in errors
    assert all(word in errors for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_runs_is_extended_and_is_tracked(tmp_path):
    methods = ["--methods", "kd,tkd", "--ablate", "k1:method.k=1", "--trials", "1", *SMALL]
    code, page, errors = compare(tmp_path, *methods, "--seeds", "1")
    assert code == 0, errors
    folder = tmp_path / "runs" / "compare-digits"
    table = pd.read_csv(folder / "compare.csv")
    assert sorted(zip(table.label, table.seed, strict=True)) == [
        (label, seed) for label in ("k1", "kd", "tkd") for seed in (1000,)
    ]
    assert table.test_accuracy.between(0, 1).all()
    assert "| k1 | 1 |" in page
    assert set(pd.read_csv(folder / "teachers.csv").label) == {"k1", "tkd"}
    before = {file: file.stat().st_mtime_ns for file in (folder / "comparison").glob("*.json")}

    code, page, errors = compare(tmp_path, *methods, "--seeds", "2")
    assert code == 0, errors
    assert "| kd | 2 |" in page
    after = {file: file.stat().st_mtime_ns for file in (folder / "comparison").glob("*.json")}
    assert len(after) == 6
    assert before.items() <= after.items()

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tkd_search/digits")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`tkd.comparison` = 'compare-digits'")
    assert run.data.metrics["kd.seeds"] == 2
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {
        "compare.md",
        "compare.csv",
        "teachers.csv",
    }
