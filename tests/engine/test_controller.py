"""The controller over real files: its state survives the death of its driver at any moment."""

from dataclasses import replace

import pytest

from tests.engine.controllers import (
    EPOCHS,
    TOO_WIDE,
    Killed,
    Power,
    check,
    open_controller,
    search,
    size_of,
)
from tkd_search.config.experiment_file import load_config
from tkd_search.config.resolve import describe_student
from tkd_search.engine.controller import file_difference
from tkd_search.errors import UserError
from tkd_search.results.records import EpochRecord, TrialRecord
from tkd_search.tracking.event_log import events_file


def writes_of_a_search(folder, measure, states):
    power = Power(10_000)
    study, controller = open_controller(folder, power, measure=measure)
    search(controller)
    check(folder, study, controller, states)
    return 10_000 - power.left


def some_cannot_be_built(settings):
    if settings.student.width > TOO_WIDE:
        raise UserError("student.width", "too wide", "less")
    return size_of(settings)


@pytest.mark.parametrize(
    ("measure", "least", "states"),
    [
        (size_of, 31, {"complete", "stopped"}),
        (some_cannot_be_built, 29, {"complete", "stopped", "failed"}),
    ],
)
def test_a_driver_killed_before_any_write_loses_and_doubles_nothing(tmp_path, measure, least, states):
    writes = writes_of_a_search(tmp_path / "whole", measure, states)
    assert writes >= least
    for survived in range(writes):
        folder = tmp_path / str(survived)
        with pytest.raises(Killed):
            search(open_controller(folder, Power(survived), measure=measure)[1])
        study, controller = open_controller(folder, Power(10_000), measure=measure)
        search(controller)
        check(folder, study, controller, states)


@pytest.mark.parametrize("kept", range(9))
def test_what_a_power_cut_took_from_the_log_comes_back_from_the_study(tmp_path, kept):
    """The study waits for the disk at every write, the log does not."""
    study, controller = open_controller(tmp_path, Power(10_000))
    search(controller)
    before = controller.search_state()
    log = events_file(tmp_path)
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:kept]))
    study, controller = open_controller(tmp_path, Power(10_000))
    search(controller)
    check(tmp_path, study, controller)
    after = controller.search_state()
    assert (after.hypervolume, after.epochs) == (before.hypervolume, before.epochs)


def test_the_history_is_the_same_after_a_restart_while_others_train(tmp_path):
    _, controller = open_controller(tmp_path, Power(10_000))
    first, second = controller.next_trial().trial_id, controller.next_trial().trial_id
    for epoch in range(1, EPOCHS + 1):
        controller.epoch(first, epoch, 0.1 * epoch, {})
        controller.epoch(second, epoch, 0.2 * epoch, {})
    controller.ended(first)
    controller.ended(second)
    _, again = open_controller(tmp_path, Power(10_000))
    assert again.history == controller.history
    assert [epochs for epochs, _ in again.history] == [2 * EPOCHS, 2 * EPOCHS]
    assert len(again._plateau) == 2  # both trained, though no epoch passed between their ends


def test_students_that_were_not_trained_make_no_plateau_while_another_trains(tmp_path):
    limits = ("search.plateau=2", "search.trials=9")
    _, controller = open_controller(tmp_path, Power(10_000), *limits)
    controller._latency, controller._limit = lambda student: 2.0, 3.0
    first, training = controller.next_trial(), controller.next_trial()
    for epoch in range(1, EPOCHS + 1):
        controller.epoch(first.trial_id, epoch, 0.1 * epoch, {})
    controller.ended(first.trial_id)
    controller.epoch(training.trial_id, 1, 0.3, {})
    latencies = iter([9.0, 9.0, 9.0, 2.0])
    controller._latency = lambda student: next(latencies)
    assert controller.next_trial() is not None
    assert controller.search_state().not_trained == 3


def test_a_student_that_cannot_be_built_fails_alone(tmp_path):
    measure = some_cannot_be_built
    study, controller = open_controller(tmp_path, Power(10_000), "search.trials=12", measure=measure)
    search(controller)
    failed = {trial.trial_id for trial in controller.trials() if trial.state == "failed"}
    too_wide = {t.trial_id for t in controller.trials() if t.config["student.width"] > TOO_WIDE}
    assert failed == too_wide != set()
    assert len(controller.trials()) == 12
    assert all("student.width" in study.trial(name).reason for name in failed)
    _, again = open_controller(tmp_path, Power(10_000), "search.trials=12", measure=measure)
    assert again.next_trial() is None
    assert again.trials() == controller.trials()


def test_a_student_whose_latency_cannot_be_measured_fails_alone(tmp_path):
    def latency(student):
        if student.width > TOO_WIDE:
            raise UserError("student", "a network", "one that onnxruntime runs")
        return 1.0

    limit = ["search.trials=12", "search.max_latency=2ms"]
    _, controller = open_controller(tmp_path, Power(10_000), *limit, latency=latency)
    search(controller)
    failed = {trial.trial_id for trial in controller.trials() if trial.state == "failed"}
    assert (
        failed == {t.trial_id for t in controller.trials() if t.config["student.width"] > TOO_WIDE} != set()
    )
    assert len(controller.trials()) == 12


def test_unfinished_trials_count_before_they_start_again(tmp_path):
    _, controller = open_controller(tmp_path, Power(10_000))
    for name in (controller.next_trial().trial_id, controller.next_trial().trial_id):
        controller.epoch(name, 1, 0.5, {})
    _, again = open_controller(tmp_path, Power(10_000))
    assert again.trials() == tuple(replace(trial, seconds=0.0) for trial in controller.trials())
    assert again.search_state().epochs == 2


def test_a_trial_that_never_began_took_no_time(tmp_path):
    _, controller = open_controller(tmp_path, Power(10_000), "search.trials=12", measure=some_cannot_be_built)
    search(controller)
    assert {trial.seconds for trial in controller.trials() if trial.state == "failed"} == {0.0}


def test_a_student_is_called_what_a_person_can_read() -> None:
    def called(*settings: str) -> str:
        return describe_student(load_config(None, ["student.depth=1", *settings]).settings())

    assert called("student.width=0.25") == "mobilenet_v2 ×0.25"
    assert called("student.width=0.5", "student.depth=0.5") == "mobilenet_v2 ×0.5 d0.5"
    assert called("student.name=squeezenet1_1") == "squeezenet1_1"  # which has no width
    cut = "student.name=cut"
    assert called(cut, "student.width=0.5", "student.ratios={layer4: 0.25}") == "cut ×0.5 layer4 ×0.25"
    assert called(cut, "student.width=0.5", "student.ratios=[0.5, 0.125]") == "cut ×0.5 ×[0.5, 0.125]"
    own = "student.name=tkd_search.models.plain:plain_cnn"
    assert called(own, "student.width=0.25", "student.args={widths: [8, 16]}") == "plain_cnn widths=[8, 16]"


@pytest.mark.parametrize(
    ("simulated", "recorded"), [(0.904, False), (0.906, True), (0.893, True), (None, False)]
)
def test_a_file_that_differs_from_its_network_by_over_half_a_point_is_recorded(simulated, recorded):
    metrics = {} if simulated is None else {"simulated_accuracy": simulated}
    epochs = (EpochRecord(epoch=1, val_accuracy=0.9, metrics=metrics),)
    trial = TrialRecord(
        trial_id="t0", student="s", config={}, bytes=1, parameters=1, state="running", epochs=epochs
    )
    assert bool(file_difference(trial)) == recorded
