"""Trials of earlier studies, records at rungs, and enqueued configurations."""

from tests.optimize.studies import open_study
from tkd_search.optimize.history import renumber, rungs_of, study_name
from tkd_search.optimize.space import FloatDistribution, Space
from tkd_search.optimize.study_trial import StudyTrial

SPACE = Space({"student.width": FloatDistribution(0.1, 1.0)})


def trial(number, state="complete", width=0.5, curve=(0.5,), **more):
    epochs = dict(enumerate(curve, start=1))
    config = {"student.width": width}
    return StudyTrial(
        number=number, storage_id=number, config=config, state=state, cost=100, curve=epochs, **more
    )


def test_earlier_trained_trials_within_the_space_get_negative_numbers():
    earlier = [
        trial(0),
        trial(1, "failed"),
        trial(2, "running"),
        trial(3, width=2.0),  # not in this space
        trial(4, "stopped", curve=()),  # above a limit of its own search
        trial(5, "stopped", width=0.7),
    ]
    found = renumber(earlier, SPACE)
    assert [(t.number, t.storage_id) for t in found] == [(-2, 0), (-1, 5)]


def test_records_at_a_rung_are_in_order_of_arrival():
    curve = (0.1, 0.2, 0.3)
    trials = [
        trial(0, curve=curve, arrivals={1: 2, 3: 3}),
        trial(1, curve=curve, arrivals={1: 0, 3: 4}),
        trial(2, curve=curve, arrivals={1: 1}),
    ]
    found = {epoch: [r.trial_id for r in records] for epoch, records in rungs_of(trials).items()}
    assert found == {1: ["t0001", "t0002", "t0000"], 3: ["t0000", "t0001"]}


def test_a_renamed_run_goes_on_with_its_study(tmp_path):
    journal = tmp_path / "study.journal"
    assert study_name(journal, "old") == "old"
    open_study(journal, name="old").ask()
    again = open_study(journal, name=study_name(journal, "new"))
    assert [trial.trial_id for trial in again.trials()] == ["t0000"]
