"""The limit on latency: checked before training, recorded, and used by the sampler."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tkd_search.config.experiment_file import load_config
from tkd_search.config.search_settings import SearchSettings
from tkd_search.data import load_data
from tkd_search.engine.budget import Budget
from tkd_search.engine.controller import Controller, Size
from tkd_search.engine.latencies import Latencies, measure_latency, too_slow
from tkd_search.engine.search_state import SearchState
from tkd_search.errors import UserError
from tkd_search.models.model_settings import StudentSettings
from tkd_search.optimize.learning_curves import ACCURACY_ESTIMATORS
from tkd_search.optimize.pareto import CostScale, normalised_hypervolume
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.study import SearchStudy
from tkd_search.results.records import BigModelRecord, Reference
from tkd_search.tracking.search_log import read_search_log
from tkd_search.tracking.tracker import Tracker

LIMIT = "search.max_latency=5ms"


def size_of(settings):
    return Size(bytes=int(1e6 * settings.student.width), parameters=1)


def latency_of(student):
    """One millisecond for each tenth of width: students wider than a half break the limit."""
    return 10 * student.width


def open_controller(folder, *overrides, latency=latency_of, measure=size_of):
    config = load_config(None, ["training.epochs=3", "search.trials=12", *overrides])
    study = SearchStudy.open(
        "s",
        folder / "study.journal",
        space=config.space,
        full_budget=3,
        enqueue=config.enqueued(),
        proposer=ProposerSettings(sampler="qmc"),  # one that does not learn to avoid slow students
    )
    return study, Controller(
        config,
        study,
        Budget(config.settings().search),
        measure=measure,
        tracker=Tracker(folder),
        scale=CostScale(2_000_000),
        classes=10,
        latency=latency,
    )


def train(controller, assignment):
    for epoch in range(assignment.after_epoch + 1, 4):
        controller.epoch(assignment.trial_id, epoch, 0.5 + 0.1 * epoch, {})
    controller.ended(assignment.trial_id)


def run_all(controller):
    begun = []
    while (assignment := controller.next_trial()) is not None:
        begun.append(assignment)
        train(controller, assignment)
    return begun


def test_a_student_above_the_limit_is_not_trained_and_the_reason_is_recorded(tmp_path):
    study, controller = open_controller(tmp_path, LIMIT)
    begun = run_all(controller)
    trials = {trial.trial_id: trial for trial in controller.trials()}
    slow = {name for name, trial in trials.items() if trial.config["student.width"] > 0.5}
    assert slow
    assert {one.trial_id for one in begun} == set(trials) - slow
    assert len(trials) == 12
    for name in slow:
        trial = trials[name]
        assert (trial.state, trial.not_trained, trial.epochs) == ("stopped", True, ())
        assert "above search.max_latency 5 ms" in trial.reason
        told = study.trial(name)
        assert (told.state, told.reason, told.cost) == ("stopped", trial.reason, trial.bytes)
    log = read_search_log(tmp_path)
    assert log.ended == sorted(trials)
    assert {name for name, trial in log.trials.items() if trial.not_trained} == slow
    search_state = controller.search_state()
    assert (search_state.not_trained, search_state.failed, search_state.running) == (len(slow), 0, 0)
    assert search_state.stopped == len(slow)
    assert all(trial.config["student.width"] <= 0.5 for trial in search_state.front)


def test_a_resumed_search_keeps_what_was_judged(tmp_path):
    _, controller = open_controller(tmp_path, LIMIT)
    run_all(controller)

    def never(student):
        raise AssertionError("judged again")

    study, again = open_controller(tmp_path, LIMIT, latency=never)
    assert again.next_trial() is None
    assert again.trials() == controller.trials()
    assert [trial.reason for trial in study.trials()] == [trial.reason for trial in again.trials()]


def test_a_driver_that_died_while_it_measured_judges_the_trial_when_it_is_back(tmp_path):
    study, _ = open_controller(tmp_path, LIMIT, "search.enqueue=[{student.width: 0.6}]")
    assert study.ask().config["student.width"] == 0.6
    _, controller = open_controller(tmp_path, LIMIT, "search.enqueue=[{student.width: 0.6}]")
    first = controller.next_trial()
    assert first.trial_id != "t0000"
    assert controller.trials()[0].not_trained


def test_a_search_in_which_no_student_is_fast_enough_ends(tmp_path):
    _, controller = open_controller(tmp_path, "search.max_latency=1us")
    assert controller.next_trial() is None
    assert controller.search_state() == SearchState(
        running=0, complete=0, stopped=12, not_trained=12, failed=0, epochs=0, front=(), hypervolume=0.0
    )


@pytest.mark.parametrize("learning", ACCURACY_ESTIMATORS)
def test_a_sampler_learns_that_such_a_student_is_worth_nothing(tmp_path, learning):
    study, controller = open_controller(tmp_path, LIMIT)
    run_all(controller)
    accuracies = ACCURACY_ESTIMATORS[learning](study.trials(), (), 3)
    slow = {trial.number for trial in study.trials("stopped")}
    assert slow
    assert {number for number, accuracy in accuracies.items() if accuracy == 0.0} == slow


def test_a_search_by_latency_has_its_front_and_hypervolume_in_milliseconds(tmp_path):
    """Here the widest student is the fastest and the only one on the front; by bytes it is the costliest."""

    def by_latency(settings):
        return replace(size_of(settings), latency=1 / settings.student.width)

    study, controller = open_controller(tmp_path, measure=by_latency, latency=None)
    run_all(controller)
    trials, state = controller.trials(), controller.search_state()
    assert [trial.latency for trial in trials] == [1 / trial.config["student.width"] for trial in trials]
    widest = max(trials, key=lambda trial: trial.bytes)
    assert state.front == (widest,)
    scale = CostScale(2_000_000)
    assert state.hypervolume == normalised_hypervolume(
        [widest.latency], [widest.val_accuracy], scale=scale, classes=10
    )
    assert [trial.cost for trial in study.trials()] == [trial.latency for trial in trials]
    log = read_search_log(tmp_path)
    assert [log.trials[trial.trial_id].latency for trial in trials] == [trial.latency for trial in trials]
    _, again = open_controller(tmp_path, measure=by_latency, latency=None)
    assert (again.trials(), again.search_state()) == (trials, state)


def test_a_big_model_and_its_references_have_a_latency(tmp_path):
    settings = load_config(None).settings().big_models[0]
    half = Reference(format="fp16", bytes=5, ratio=0.5, val_accuracy=0.9, test_accuracy=0.9)
    figures = BigModelRecord(
        name="F", bytes=10, parameters=1, val_accuracy=0.9, test_accuracy=0.9, references=(half,)
    )
    speed = {"fp32": 4.0, "fp16": 6.0}
    known = Latencies(tmp_path / "latency.json", lambda settings, format: speed[format])
    found = known.with_latencies(figures, settings)
    assert (found.cost, found.references[0].cost) == (4.0, 6.0)
    assert (figures.cost, half.cost) == (10, 5)


def test_a_student_that_cannot_be_exported_is_named():
    settings = load_config(
        None, ["student.name=tests.engine.test_latencies:Unexportable", "student.args={}"]
    ).settings()
    data, student = load_data(settings.data), settings.student
    with pytest.raises(UserError, match="Unexportable, whose latency cannot be measured"):
        measure_latency(student, student.format, data, settings.big_models[0], seconds=0.0)


class Unexportable(nn.Module):
    """Computes its logits by code that no tracer can follow."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images):
        rows = torch.stack([torch.tensor([float(row.sum()), 1.0, 2.0]) for row in images.unbind()])
        return self.head(torch.linalg.eig(rows.T @ rows)[0].real[None].expand(len(images), 3))


def test_a_plateau_is_so_many_trials_without_gain():
    budget = Budget(SearchSettings(trials=100, plateau=2))
    idle = SearchState(
        running=0, complete=0, stopped=0, not_trained=0, failed=0, epochs=9, front=(), hypervolume=0
    )
    assert budget.exhausted(idle, 5, [0.1, 0.2, 0.2]) == ""
    assert "hypervolume" in budget.exhausted(idle, 7, [0.1, 0.2, 0.2, 0.2])


def test_latencies_are_measured_once_per_architecture_and_kept(tmp_path):
    asked = []

    def measure(student, format):
        asked.append((student.width, format))
        return 10 * student.width

    known = Latencies(tmp_path / "latency.json", measure)
    quarter, half = StudentSettings(width=0.25), StudentSettings(width=0.5)
    assert [known.of(one) for one in (quarter, half, quarter)] == [2.5, 5.0, 2.5]
    other_weights = replace(quarter, importance="taylor", weights="hub")
    assert known.of(other_weights) == 2.5
    assert Latencies(tmp_path / "latency.json", measure).of(half) == 5.0
    assert asked == [(0.25, "fp32"), (0.5, "fp32")]
    assert len(json.loads((tmp_path / "latency.json").read_text())) == 2


def test_the_limit_itself_is_kept():
    assert too_slow(5.0, 5.0) == ""
    assert "7.25 ms" in too_slow(7.25, 5.0)


def test_a_real_student_has_a_latency():
    settings = load_config(None, ["student.width=0.1"]).settings()
    data, student = load_data(settings.data), settings.student
    assert 0 < measure_latency(student, student.format, data, settings.big_models[0], seconds=0.0) < 10_000
