"""A study goes on after a kill; its journal is repaired and read again."""

import multiprocessing
import time

import optuna
import pytest

from tests.optimize.studies import BUDGET, PRUNER, open_study, optuna_trials, record, records_at, run_trial
from tkd_search.optimize.history import rungs_of
from tkd_search.optimize.pruners.base import RungRecord, Stop
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.space import FloatDistribution, Space
from tkd_search.optimize.study import earlier_trials
from tkd_search.optimize.study_storage import JournalLock, SlimJournal, repair_journal


class TestResume:
    def test_a_reopened_study_has_the_same_trials_and_records(self, journal):
        study = open_study(journal)
        for _ in range(12):
            run_trial(study)
        running = study.ask()
        run_trial(study, running, until=2)
        again = open_study(journal)
        assert [t.config for t in again.trials()] == [t.config for t in study.trials()]
        assert [t.state for t in again.trials()] == [t.state for t in study.trials()]
        assert all(records_at(again, level) == records_at(study, level) for level in PRUNER.levels)

    def test_unfinished_trials_keep_number_and_configuration(self, journal):
        study = open_study(journal)
        run_trial(study)
        running = [study.ask(), study.ask()]
        again = open_study(journal)
        assert [(s.trial_id, s.number, dict(s.config)) for s in again.unfinished()] == [
            (s.trial_id, s.number, dict(s.config)) for s in running
        ]
        run_trial(again, again.unfinished()[0])
        assert len(optuna_trials(journal)) == 3

    def test_a_stop_is_known_after_the_driver_died_before_ending_the_trial(self, journal):
        study = open_study(journal)
        first, second = study.ask(), study.ask()
        study.report(first.trial_id, record(first, 1, 0.9))
        stop = study.report(second.trial_id, record(second, 1, 0.1))
        assert isinstance(stop, Stop)  # and the driver dies here
        again = open_study(journal)
        assert [(s.trial_id, s.stop) for s in again.unfinished()] == [
            (first.trial_id, None),
            (second.trial_id, stop),
        ]

    def test_a_pruner_that_sees_finished_trials_decides_the_same_after_a_restart(self, journal):
        pruner = create_pruner(
            "front_probability", full_budget=BUDGET, classes=10, options={"min_finished": 2}
        )
        study = open_study(journal, pruner=pruner)
        for _ in range(12):
            run_trial(study)
        last = study.ask()
        level = pruner.levels[-1]
        bad = RungRecord(trial_id=last.trial_id, epoch=level, cost=10**7, accuracy=0.3)
        assert isinstance(study.report(last.trial_id, bad), Stop)
        late = study.ask()  # ends after the decision, which must not depend on it
        study.complete(late.trial_id, (10**6, 0.999))
        again = open_study(journal, pruner=pruner)
        assert again.unfinished()[0].stop == study.report(last.trial_id, bad)
        assert records_at(again, BUDGET) == records_at(study, BUDGET)
        assert len(records_at(study, BUDGET)) == len(study.trials("complete"))

    def test_final_values_do_not_change_records_at_rungs(self, journal):
        study = open_study(journal)
        suggestion = study.ask()
        study.report(suggestion.trial_id, record(suggestion, 3, 0.4))
        study.complete(suggestion.trial_id, (5000, 0.8))
        again = open_study(journal)
        assert [r.accuracy for r in records_at(again, 3)] == [0.4]
        assert again.trials()[0].curve == {3: 0.4, BUDGET: 0.8}
        assert set(rungs_of(again.trials())) == {3}

    def test_a_half_written_last_line_of_a_journal_is_removed(self, journal):
        study = open_study(journal)
        for _ in range(3):
            run_trial(study)
        whole = journal.read_bytes()
        journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x')
        again = open_study(journal)
        run_trial(again)
        assert len(open_study(journal).trials()) == 4
        assert not repair_journal(journal)

    @pytest.mark.parametrize("share", [0.2, 0.45, 0.7, 0.95])
    def test_a_journal_cut_at_any_position_opens(self, journal, share):
        study = open_study(journal)
        for _ in range(6):
            run_trial(study)
        content = journal.read_bytes()
        journal.write_bytes(content[: int(len(content) * share)])
        again = open_study(journal)
        for suggestion in again.unfinished():
            run_trial(again, suggestion)
        run_trial(again)
        assert not open_study(journal).unfinished()

    def test_a_study_in_sqlite_can_be_reopened(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        study = open_study(url)
        for _ in range(2):
            run_trial(study)
        study.ask()
        again = open_study(url)
        assert [t.state for t in again.trials()] == ["complete", study.trials()[1].state, "running"]

    def test_two_studies_in_one_storage_are_independent(self, journal):
        run_trial(open_study(journal, name="a"))
        assert open_study(journal, name="b").trials() == ()


def _append_slowly(path, begun):
    lock = JournalLock(str(path))
    lock.acquire()
    with open(path, "ab") as journal:
        journal.write(b'{"n": 0, ')
        journal.flush()
        begun.set()
        time.sleep(0.5)
        journal.write(b'"padding": 1}\n')
    lock.release()


def test_repairing_a_journal_waits_for_a_writer(journal):
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    writer = context.Process(target=_append_slowly, args=(journal, begun))
    writer.start()
    assert begun.wait(60)
    assert not repair_journal(journal)
    writer.join()
    assert journal.read_bytes() == b'{"n": 0, "padding": 1}\n'


def test_reading_a_journal_does_not_change_it(journal):
    study = open_study(journal)
    run_trial(study)
    with open(journal, "ab") as half:
        half.write(b'{"op_code": ')
    before = journal.read_bytes()
    assert [trial.state for trial in earlier_trials(journal)] == ["complete"]
    assert journal.read_bytes() == before


def test_a_journal_can_be_read_from_any_record_with_one_offset_in_memory(journal):
    """A continued reading, a new one and Optuna's own backend give the same records."""
    study, slim = open_study(journal), SlimJournal(str(journal))
    records = []
    for _ in range(4):
        run_trial(study)
        records += slim.read_logs(len(records))
    expected = list(optuna.storages.journal.JournalFileBackend(str(journal)).read_logs(0))
    assert records == expected == list(slim.read_logs(0))
    assert list(slim.read_logs(7)) == expected[7:]


def test_trials_share_names_and_distributions(journal):
    """A trial adds only its values to memory; names of leaves and distributions exist once."""
    study = open_study(journal, space=Space({"training.lr": FloatDistribution(1e-3, 1e-1, log=True)}))
    first, second = (study._storage.get_trial(study.ask().number) for _ in range(2))
    assert first.distributions["training.lr"] is second.distributions["training.lr"]
    assert next(iter(first.params)) is next(iter(second.params))
    assert study.trial("t0001").config is second.params
