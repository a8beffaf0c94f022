"""The state of a search: counts, front, hypervolume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.engine.search_state import Trials, front_of
from tkd_search.optimize.pareto import CostScale, normalised_hypervolume
from tkd_search.results.records import EpochRecord, TrialRecord


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
