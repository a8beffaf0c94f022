"""The benchmark without Ray, in small on the CPU: real processes, and nothing is trained twice."""

import subprocess
import sys

import pytest

from benchmarks.one_gpu.__main__ import main

TINY = [
    *("--set", "digits", "--data", "none", "--device", "cpu", "--precision", "fp32"),
    *("--big", "alexnet", "--big-width", "0.1", "--big-epochs", "1", "--epochs", "1", "--batch", "128"),
    *("--widths", "0.1", "--seeds", "2", "--processes", "2", "--contestants", "ce,kd,tkd"),
]


@pytest.mark.slow
def test_trains_once_and_tells(tmp_path, capsys):
    command = [sys.executable, "-m", "benchmarks.one_gpu", *TINY, "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    trainings = (tmp_path / "trainings.jsonl").read_text()
    page = (tmp_path / "alexnet.md").read_text()
    assert len(trainings.splitlines()) == 6
    assert page.count("\n| ") == 4  # header and three contestants
    capsys.readouterr()
    main([*TINY, "--out", str(tmp_path)])
    assert (tmp_path / "trainings.jsonl").read_text() == trainings
    assert page in capsys.readouterr().out


@pytest.mark.slow
def test_a_deadline_leaves_what_the_same_command_goes_on_from(tmp_path, capsys):
    main([*TINY, "--out", str(tmp_path), "--seconds", "0"])
    assert "the same command goes on" in capsys.readouterr().out
    main([*TINY, "--out", str(tmp_path)])
    assert len((tmp_path / "trainings.jsonl").read_text().splitlines()) == 6
