"""Controllers over real files, whose driver may die before any write."""

from tkd_search.config.experiment_file import load_config
from tkd_search.engine.budget import Budget
from tkd_search.engine.controller import Controller, Size
from tkd_search.optimize.pareto import CostScale
from tkd_search.optimize.pruners.single_objective import SingleObjective
from tkd_search.optimize.study import SearchStudy
from tkd_search.tracking.event_log import all_events, events_file
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
