"""The cost of a training step: ratios, and the other trainings beside ours, in small."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.step_cost import torchdistill_steps as rival
from benchmarks.step_cost.__main__ import GOALS, Goal, main
from benchmarks.step_cost.one_process import METHODS, measure
from benchmarks.step_cost.two_workers import measure_two_workers
from tkd_search.distill import TrainSettings
from tkd_search.models.model_settings import StudentSettings

STUDENT = StudentSettings(name="mobilenet_v2", width=0.25)
TRAIN = TrainSettings(epochs=1000, batch_size=8, schedule="constant")


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    """The medians' ratio would be 2: the machine was slow in another round for each."""
    found = {"a": [10.0, 90.0, 20.0], "b": [10.0, 30.0, 5.0]}
    assert Goal("a_over_b", "a", "b").ratio(found) == 3.0


def test_goals_bound_from_above_or_below():
    most, least = Goal("k", "a", "b", most=1.25), Goal("k", "a", "b", least=3)
    assert most.verdict(1.25) == "goal ≤ 1.25: met"
    assert most.verdict(1.26) == "goal ≤ 1.25: MISSED"
    assert least.verdict(3.1) == "goal ≥ 3: met"
    assert least.verdict(2.9) == "goal ≥ 3: MISSED"
    assert Goal("k", "a", "b").verdict(9.0) == "no goal"


def test_rounds_run_every_training_in_turn_and_the_first_is_discarded():
    seconds = iter([9.0, 9.0, 0.2, 0.4, 0.6, 0.8])
    steps = {"a": lambda: next(seconds), "b": lambda: next(seconds)}
    found = measure(steps, rounds=2, batches=2)
    assert found == {"a": pytest.approx([100, 300]), "b": pytest.approx([200, 400])}


def test_the_plain_command_needs_no_other_library(tmp_path, capsys):
    file = tmp_path / "figures.json"
    main(["--rounds", "1", "--batches", "1", "--batch", "8", "--json", str(file)])
    figures = json.loads(file.read_text())
    assert list(figures["steps"]) == list(METHODS)
    stages = figures["steps"]["tkd with stages and relation, bank"]
    assert figures["tkd_stages_over_ce"] == pytest.approx(stages["ratio_to_ce"])
    assert not {"torchdistill_kd_over_ours", "ddp_over_torchrun"} & set(figures)
    assert "tkd_stages_over_ce: " in capsys.readouterr().out


@pytest.mark.slow
def test_two_workers_are_measured_beside_torchrun():
    found = measure_two_workers(rounds=2, batches=1, settings=STUDENT, train=TRAIN)
    assert [name for name in found if min(found[name]) > 0 and len(found[name]) == 2] == list(found)
    goals = {goal.key: goal for goal in GOALS}
    assert goals["ddp_over_torchrun"].ratio(found) > 0


def test_torchdistill_is_installed_once_and_into_its_folder_alone(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(rival.subprocess, "run", lambda command, check: calls.append(command))
    rival.install(tmp_path)
    assert calls[0][-2:] == [str(tmp_path), f"torchdistill=={rival.VERSION}"]
    assert "--no-deps" in calls[0]
    (tmp_path / "torchdistill").mkdir()
    rival.install(tmp_path)
    assert len(calls) == 1


STAND_IN = '''
"""Has the parts of torchdistill that the benchmark calls; a step takes no time."""
from types import SimpleNamespace


def get_distillation_box(teacher, student, data, config, device, ids, distributed, factor):
    images, label = data["train"][0]
    logits = student(images[None]), teacher(images[None])
    assert [len(of) for of in logits] == [1, 1] and not teacher.training
    hooked = [config[side]["forward_hook"]["output"] for side in ("student", "teacher")]
    for network, paths in zip((student, teacher), hooked):
        [network.get_submodule(path) for path in paths]
    nothing = lambda **_: None
    return SimpleNamespace(
        device=device, train_data_loader=[(images, SimpleNamespace(to=lambda _: label), {})],
        pre_epoch_process=nothing, post_epoch_process=nothing, post_forward_process=nothing,
        forward_process=lambda *_: None,
    )
'''


def stand_in(folder: Path) -> None:
    core = folder / "torchdistill" / "core"
    core.mkdir(parents=True)
    (core / "distillation.py").write_text(STAND_IN)


def test_the_other_process_answers_and_ends(tmp_path):
    stand_in(tmp_path)
    with rival.torchdistill_steps(tmp_path, "cpu", 1, STUDENT, TRAIN) as steps:
        found = measure(steps, rounds=2, batches=1)
    assert list(found) == [f"{name}, torchdistill" for name in rival.TRAININGS]
    assert all(0 <= ms < 1000 for of in found.values() for ms in of)


@pytest.mark.skipif(importlib.util.find_spec("torchdistill") is None, reason="torchdistill is not installed")
def test_torchdistill_trains(tmp_path):
    with rival.torchdistill_steps(tmp_path, "cpu", 1, STUDENT, TRAIN) as steps:
        found = measure(steps, rounds=1, batches=1)
    assert all(min(of) > 0 for of in found.values())
