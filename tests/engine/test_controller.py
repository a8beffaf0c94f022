"""The controller over real files: its state survives the death of its driver at any moment."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.config.experiment_file import load_config
from tkd_search.config.resolve import describe_student
from tkd_search.config.search_settings import SearchSettings
from tkd_search.engine.budget import Budget
from tkd_search.engine.controller import MOST_RESTARTS, Controller, Size, file_difference
from tkd_search.engine.search_state import SearchState, Trials, front_of
from tkd_search.engine.tune.scheduler import ControllerScheduler
from tkd_search.engine.tune.searcher import ControllerSearcher
from tkd_search.errors import UserError
from tkd_search.files import DiskFullError
from tkd_search.optimize.pareto import CostScale, normalised_hypervolume
from tkd_search.optimize.pruners.single_objective import SingleObjective
from tkd_search.optimize.study import SearchStudy
from tkd_search.results.records import EpochRecord, TrialRecord
from tkd_search.tracking.event_log import Event, all_events, events_file
from tkd_search.tracking.search_log import fold_events
from tkd_search.tracking.tracker import Tracker

TRIALS, EPOCHS = 4, 3
TOO_WIDE = 0.4
SETTINGS = [
    f"search.trials={TRIALS}",
    f"training.epochs={EPOCHS}",
    "search.sampler=random",
    "student.width={float: [0.1, 0.6], log: true}",
]


class Killed(BaseException):
    """The driver's death, just before something is written."""


class Power:
    """Lets so many writes happen, then kills the driver."""

    def __init__(self, writes):
        self.left = writes

    def guarded(self, write):
        def call(*args, **kwargs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return write(*args, **kwargs)

        return call

    def guard(self, target, *names):
        for name in names:
            setattr(target, name, self.guarded(getattr(target, name)))
        return target


def size_of(settings):
    return Size(bytes=int(1e6 * settings.student.width), parameters=1)


def open_controller(folder, power, *overrides, measure=size_of, latency=None):
    """A driver's controller, each of whose durable writes may be its last."""
    config = load_config(None, [*SETTINGS, *overrides])
    folder.mkdir(exist_ok=True)
    study = SearchStudy.open(
        "s",
        folder / "study.journal",
        space=config.space,
        full_budget=EPOCHS,
        pruner=SingleObjective(levels=(1, 2), eta=2.0),
    )
    power.guard(study._storage, "create_new_trial", "set_trial_user_attr", "set_trial_state_values")
    tracker = Tracker(folder)
    power.guard(tracker.log, "append")
    return study, Controller(
        config,
        study,
        Budget(config.settings().search),
        measure=measure,
        tracker=tracker,
        scale=CostScale(2_000_000),
        classes=10,
        latency=latency,
    )


def search(controller):
    """Train every trial; later ones are worse, so that some are stopped."""
    while (assignment := controller.next_trial()) is not None:
        name = assignment.trial_id
        goes_on = True
        assert assignment.after_epoch < EPOCHS, "a worker group must have an epoch left to end the trial with"
        for epoch in range(assignment.after_epoch + 1, EPOCHS + 1):
            goes_on = goes_on and controller.epoch(
                name, epoch, (0.9 - 0.05 * int(name[1:])) * epoch / EPOCHS, {}
            )
            if not goes_on:
                break
        controller.ended(name)


def check(folder, study, controller, states=frozenset({"complete", "stopped"})):
    """The study, the controller and the event log agree, and the log has every event once."""
    trials = {trial.trial_id: trial for trial in controller.trials()}
    assert {trial.trial_id: trial.state for trial in study.trials()} == {
        name: trial.state for name, trial in trials.items()
    }
    assert len(trials) == TRIALS
    assert {trial.state for trial in trials.values()} == states
    events = list(all_events(events_file(folder)))
    epochs = [(e.data["trial_id"], e.data["record"]["epoch"]) for e in events if e.kind == "epoch"]
    ends = [e.data for e in events if e.kind == "trial_ended"]
    starts = [e.data for e in events if e.kind == "trial_started"]
    assert len(set(epochs)) == len(epochs)
    assert sorted(end["trial_id"] for end in ends) == sorted(trials)
    assert [end["search"]["step"] for end in ends] == list(range(1, TRIALS + 1))
    assert {start["trial_id"] for start in starts} == set(trials)
    assert sorted(start["trial_id"] for start in starts if not start.get("again")) == sorted(trials)
    assert {(name, record.epoch) for name, trial in trials.items() for record in trial.epochs} == set(epochs)
    for name, trial in trials.items():
        assert dict(study.trial(name).curve) == {entry.epoch: entry.val_accuracy for entry in trial.epochs}
    log = fold_events(events)
    assert log.trials == trials
    assert log.history == controller.history


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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 3)), max_size=20))
def test_the_standing_is_kept_as_it_would_be_counted(told):
    trials = Trials(CostScale(1000), 10)
    for number, size, state in told:
        name = f"t{number:04d}"
        if name in trials and trials[name].state != "running":
            continue
        epochs = (EpochRecord(epoch=state + 1, val_accuracy=0.2 * size, metrics={}),) if state else ()
        trials[name] = TrialRecord(
            trial_id=name,
            student="s",
            config={},
            bytes=100 * size,
            parameters=1,
            state=("running", "complete", "stopped", "failed")[state],
            epochs=epochs,
        )
    anew = Trials(CostScale(1000), 10)
    for name in sorted(trials):
        anew[name] = trials[name]
    search_state = trials.search_state()
    assert search_state == anew.search_state()
    for state in ("running", "complete", "stopped", "failed"):
        assert getattr(search_state, state) == sum(trial.state == state for trial in trials.values())
    assert search_state.epochs == sum(trial.epochs_trained for trial in trials.values())
    complete = [trial for trial in trials.values() if trial.state == "complete"]
    assert search_state.front == front_of(complete)
    points = [t.bytes for t in complete], [t.val_accuracy for t in complete]
    volume = normalised_hypervolume(*points, scale=CostScale(1000), classes=10)
    assert search_state.hypervolume == pytest.approx(volume)


def test_a_front_is_sorted_by_size_and_of_equals_has_the_earliest():
    def trained(name, size, accuracy):
        epochs = (EpochRecord(epoch=1, val_accuracy=accuracy, metrics={}),)
        return TrialRecord(
            trial_id=name, student="s", config={}, bytes=size, parameters=1, state="complete", epochs=epochs
        )

    given = [("t1", 300, 0.9), ("t3", 100, 0.5), ("t2", 100, 0.5), ("t0", 200, 0.4)]
    assert [trial.trial_id for trial in front_of([trained(*one) for one in given])] == ["t2", "t1"]
    assert front_of([]) == ()


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


class Result(dict):
    """What Tune hands to its parts."""

    def __init__(self, epoch, accuracy):
        super().__init__(epoch=epoch, val_accuracy=accuracy, failed="")


def a_full_disk(controller, searcher, scheduler, first):
    """The driver's disk fills up while the first trial tells its second epoch."""

    def full(*_):
        raise DiskFullError(controller._tracker.log.path, "No space left on device")

    controller._tracker.log.append = full
    assert scheduler.on_trial_result(None, first, Result(2, 0.6)) == "STOP"
    assert isinstance(controller.broken, DiskFullError)
    searcher.on_trial_complete("a", Result(2, 0.6))


def a_broken_worker(controller, searcher, scheduler, first):
    """The environment of the first trial's worker breaks."""
    broken = "OSError: [Errno 28] No space left on device"
    searcher.on_trial_complete("a", {**Result(1, 0.5), "broken": broken})


@pytest.mark.parametrize("broken_by", [a_full_disk, a_broken_worker])
def test_what_breaks_a_search_ends_it_and_leaves_its_trials_to_the_next(tmp_path, broken_by):
    study, controller = open_controller(tmp_path, Power(10_000))
    searcher, scheduler = ControllerSearcher(controller, "trials"), ControllerScheduler(controller)
    first, second = (SimpleNamespace(config=searcher.suggest(name)) for name in ("a", "b"))
    assert scheduler.on_trial_result(None, first, Result(1, 0.5)) == "CONTINUE"
    broken_by(controller, searcher, scheduler, first)
    assert isinstance(controller.broken, UserError)
    assert "No space left" in str(controller.broken)
    assert scheduler.on_trial_result(None, second, Result(1, 0.5)) == "STOP"
    searcher.on_trial_complete("b", Result(1, 0.5))
    assert searcher.suggest("c") == "FINISHED"
    assert [trial.state for trial in study.trials()] == ["running", "running"]
    study, controller = open_controller(tmp_path, Power(10_000))
    search(controller)
    check(tmp_path, study, controller)


def test_a_trial_whose_process_is_lost_goes_on_as_another_trial_of_tune(tmp_path):
    study, controller = open_controller(tmp_path, Power(10_000))
    searcher = ControllerSearcher(controller, str(tmp_path / "trials"))
    first, *_ = (searcher.suggest(str(number)) for number in range(TRIALS))
    controller.epoch(first["trial_id"], 1, 0.5, {})
    assert searcher.suggest("again") is None  # the budget is spent, but a trial may be lost
    searcher.on_trial_complete("0", error=True)
    assert searcher.suggest("again") == {**first, "after_epoch": 1}
    for name in ("again", *map(str, range(1, TRIALS))):
        searcher.on_trial_complete(name, Result(EPOCHS, 0.7))
    assert searcher.suggest("more") == "FINISHED"
    check(tmp_path, study, controller, {"complete"})


def test_a_trial_that_is_lost_again_and_again_fails(tmp_path):
    study, controller = open_controller(tmp_path, Power(10_000), "search.trials=1")
    searcher = ControllerSearcher(controller, str(tmp_path / "trials"))
    for number in range(MOST_RESTARTS + 1):
        assert searcher.suggest(str(number))["after_epoch"] == 0
        searcher.on_trial_complete(str(number), error=True)
    assert searcher.suggest("last") == "FINISHED"
    (trial,) = study.trials()
    assert (trial.state, "lost 11 times" in trial.reason) == ("failed", True)


def test_checkpoints_are_removed_at_the_end_of_their_trial_alone(tmp_path):
    _, controller = open_controller(tmp_path, Power(10_000))
    searcher = ControllerSearcher(controller, str(tmp_path / "trials"))
    folders = [Path(searcher.suggest(name)["folder"]) for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("checkpoint.pt", "checkpoint-before.pt", "model.safetensors"):
            (folder / name).write_bytes(b"x")
    searcher.on_trial_complete("a", {**Result(1, 0.5), "failed": "no memory"})
    searcher.on_trial_complete("b", {**Result(1, 0.5), "broken": "no space left"})
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names == [
        ["model.safetensors"],
        ["checkpoint-before.pt", "checkpoint.pt", "model.safetensors"],
    ]


def test_hours_are_counted_over_all_drivers_of_a_search():
    def event(kind, at, **data):
        return Event(sequence=0, time=1_000_000 + at * 1000, kind=kind, data=data)

    def seconds(*events):
        return fold_events(events).seconds

    two = [event("driver_started", 0), event("note", 60), event("driver_started", 5000), event("note", 5030)]
    assert seconds() == 0
    assert seconds(*two) == 90
    assert seconds(*two[1:]) == 30
    opened, closed = event("driver_started", 5000, seconds=40.5), event("driver_ended", 5036)
    assert seconds(*two[:2], opened, two[3]) == 60 + 40.5 + 30
    assert seconds(*two[:2], opened, two[3], closed) == 60 + 40.5 + 36
    limits = SearchSettings(trials=9, max_hours=1.0)
    at = Budget(limits, 90.0, 0.0, clock=lambda: 3600 - 90)
    before = Budget(limits, 90.0, 0.0, clock=lambda: 3600 - 91)
    search_state = SearchState(
        running=0, complete=1, stopped=0, not_trained=0, failed=0, epochs=3, front=(), hypervolume=0.0
    )
    assert at.exhausted(search_state, 1, []) == "1 hours (search.max_hours)"
    assert before.exhausted(search_state, 1, []) == ""


def test_whichever_limit_is_reached_first_ends_a_search():
    limits = SearchSettings(trials=9, max_epochs=30, max_hours=2.5, plateau=2)
    search_state = SearchState(
        running=0, complete=1, stopped=0, not_trained=0, failed=0, epochs=29, front=(), hypervolume=0.0
    )
    early, late = (Budget(limits, 60.0, 100.0, clock=lambda now=now: now) for now in (100, 100 + 8940))
    assert early.exhausted(search_state, 8, [0.1, 0.2]) == ""
    assert early.exhausted(search_state, 9, []) == "9 trials"
    assert early.exhausted(replace(search_state, epochs=30), 8, []) == "30 epochs (search.max_epochs)"
    assert late.exhausted(search_state, 8, []) == "2.5 hours (search.max_hours)"
    assert (
        early.exhausted(search_state, 8, [0.2, 0.1, 0.2])
        == "no gain in hypervolume over 2 trials (search.plateau)"
    )
    assert early.exhausted(search_state, 8, [0.2, 0.1, 0.3]) == ""
    unlimited = Budget(SearchSettings(trials=9), clock=lambda: 1e9)
    assert unlimited.exhausted(replace(search_state, epochs=10**6), 8, [0.2] * 8) == ""


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
