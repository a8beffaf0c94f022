"""The study's bookkeeping: states, rungs, resume after a kill, suggestions."""

import dataclasses
import multiprocessing
import time

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import Continue, RungRecord, Stop
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.space import Choice, Condition, FloatDistribution, Space
from tkd_search.optimize.study import SearchStudy, earlier_trials
from tkd_search.optimize.study_storage import JournalLock, SlimJournal, mend_journal, open_storage

SPACE = Space(
    {
        "student.width": FloatDistribution(0.1, 1.0, log=True),
        "training.lr": FloatDistribution(1e-3, 1e-1, log=True),
        "method.name": Choice(("tkd", "ce")),
        "method.lam": FloatDistribution(0, 1),
    },
    (Condition("method.lam", "method.name", ("tkd",)),),
)
BUDGET = 9
RULE = create_pruner(
    "single_objective", full_budget=BUDGET, classes=10, options={"eta": 2.0}
)  # levels 1, 3: easy to predict


def open_study(where=None, name="s", **options):
    options = {"space": SPACE, "pruner": RULE, "full_budget": BUDGET, "seed": 3, **options}
    return SearchStudy.open(name, where, **options)


def size_of(config):
    return int(1e6 * config["student.width"] ** 2)


def quality(config):
    penalty = abs(config["training.lr"] - 0.01) * 5
    return 0.5 + 0.3 * config["student.width"] - penalty + 0.1 * config.get("method.lam", 0)


def record(suggestion, epoch, accuracy=None):
    value = quality(suggestion.config) * epoch / BUDGET if accuracy is None else accuracy
    return RungRecord(
        trial_id=suggestion.trial_id, epoch=epoch, bytes=size_of(suggestion.config), accuracy=value
    )


def run_trial(study, suggestion=None, until=BUDGET):
    """Run one trial as a driver does; returns the decision that ended it, Continue at the full budget."""
    suggestion = suggestion or study.ask()
    for epoch in range(1, until + 1):
        decision = study.report(suggestion.trial_id, record(suggestion, epoch))
        if isinstance(decision, Stop):
            study.prune(suggestion.trial_id, None, decision.reason)
            return decision
    if until == BUDGET:
        study.complete(suggestion.trial_id)
    return Continue()


def optuna_trials(path, name="s"):
    return optuna.load_study(study_name=name, storage=open_storage(path)).get_trials()


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "study.journal"


class TestEnds:
    def test_complete_stopped_and_failed_are_told_apart(self, journal):
        study = open_study(journal)
        for accuracy in (0.5, 0.6, 0.1):
            suggestion = study.ask()
            decision = study.report(suggestion.trial_id, record(suggestion, 1, accuracy))
            if isinstance(decision, Stop):
                study.prune(suggestion.trial_id, None, decision.reason)
            else:
                study.complete(suggestion.trial_id, (1000, accuracy))
        broken = study.ask()
        study.fail(broken.trial_id, "out of memory")
        states = [t.state for t in optuna_trials(journal)]
        assert states == [OptunaState.COMPLETE, OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL]

    def test_values_are_bytes_and_accuracy(self, journal):
        study = open_study(journal)
        suggestion = study.ask()
        study.report(suggestion.trial_id, record(suggestion, 1, 0.25))
        study.complete(suggestion.trial_id)
        assert optuna_trials(journal)[0].values == [size_of(suggestion.config), 0.25]

    def test_stopped_trials_have_no_values_but_keep_their_figures(self, journal):
        study = open_study(journal)
        first, second = study.ask(), study.ask()
        study.report(first.trial_id, record(first, 1, 0.9))
        decision = study.report(second.trial_id, record(second, 1, 0.1))
        assert isinstance(decision, Stop)
        study.prune(second.trial_id, None, decision.reason)
        frozen = optuna_trials(journal)[1]
        assert frozen.values is None
        assert frozen.user_attrs["progress"]["curve"] == {"1": 0.1}
        assert frozen.user_attrs["progress"]["reason"] == decision.reason

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_value_that_is_no_number_fails_the_trial(self, value):
        study = open_study()
        suggestion = study.ask()
        assert isinstance(study.report(suggestion.trial_id, record(suggestion, 1, value)), Stop)
        study.prune(suggestion.trial_id, None, "stopped")
        assert study.trial(suggestion.trial_id).state == "failed"

    def test_a_trial_without_reports_cannot_complete(self):
        study = open_study()
        suggestion = study.ask()
        study.complete(suggestion.trial_id)
        assert study.trial(suggestion.trial_id).state == "failed"

    def test_a_trial_whose_student_has_no_size_cannot_complete(self):
        study = open_study()
        suggestion = study.ask()
        study.complete(suggestion.trial_id, (0, 0.5))
        assert study.trial(suggestion.trial_id).state == "failed"

    def test_a_trial_that_broke_teaches_with_the_size_it_was_to_have(self, journal):
        study = open_study(journal)
        unseen, seen = study.ask(), study.ask()
        study.report(seen.trial_id, record(seen, 1))
        for suggestion in (unseen, seen):
            study.fail(suggestion.trial_id, "out of memory", 1234)
        assert [t.bytes for t in open_study(journal).trials()] == [1234, size_of(seen.config)]

    def test_the_front_comes_smallest_first(self):
        study = open_study()
        for values in ((3000, 0.9), (2500, 0.6), (1000, 0.5), (2000, 0.7)):
            study.complete(study.ask().trial_id, values)
        assert [trial.bytes for trial in study.front()] == [1000, 2000, 3000]

    def test_the_first_end_counts(self):
        study = open_study()
        suggestion = study.ask()
        study.report(suggestion.trial_id, record(suggestion, 1))
        study.complete(suggestion.trial_id)
        study.fail(suggestion.trial_id, "late crash")
        assert study.trial(suggestion.trial_id).state == "complete"
        assert isinstance(study.report(suggestion.trial_id, record(suggestion, 2)), Stop)

    def test_no_trial_is_running_at_the_end(self, journal):
        study = open_study(journal)
        for _ in range(30):
            run_trial(study)
        assert not study.unfinished()
        assert all(t.state.is_finished() for t in optuna_trials(journal))
        assert {t.state for t in study.trials()} == {"complete", "stopped"}


class TestRungs:
    def test_records_come_in_order_of_arrival(self):
        study = open_study(pruner=create_pruner("stratified", full_budget=BUDGET, classes=10))
        suggestions = [study.ask() for _ in range(5)]
        for i in (3, 0, 4, 1, 2):
            study.report(suggestions[i].trial_id, record(suggestions[i], 3, 0.5))
        assert [r.trial_id for r in study.records(3)] == ["t0003", "t0000", "t0004", "t0001", "t0002"]
        assert study.records(6) == ()

    def test_replaying_the_records_reproduces_each_stop(self, journal):
        study = open_study(journal)
        for _ in range(40):
            run_trial(study)
        again = open_study(journal)
        stopped_live = {t.trial_id for t in study.trials("stopped")}
        stopped_replayed = {
            r.trial_id
            for level in RULE.levels
            for i, r in enumerate(again.records(level))
            if isinstance(RULE.decide(again.records(level)[:i], r), Stop)
        }
        assert stopped_live
        assert stopped_replayed == stopped_live

    def test_a_record_counts_once_with_the_same_answer(self):
        study = open_study()
        first, second = study.ask(), study.ask()
        study.report(first.trial_id, record(first, 1, 0.9))
        stop = study.report(second.trial_id, record(second, 1, 0.1))
        again = study.report(second.trial_id, record(second, 1, 0.95))
        assert isinstance(stop, Stop)
        assert again == stop
        assert [r.accuracy for r in study.records(1)] == [0.9, 0.1]

    def test_decisions_are_the_pure_rules_own(self):
        study = open_study()
        for _ in range(25):
            suggestion = study.ask()
            before = study.records(1)
            newcomer = record(suggestion, 1)
            assert study.report(suggestion.trial_id, newcomer) == RULE.decide(before, newcomer)


class TestResume:
    def test_everything_is_back_after_reopening(self, journal):
        study = open_study(journal)
        for _ in range(12):
            run_trial(study)
        running = study.ask()
        run_trial(study, running, until=2)
        again = open_study(journal)
        assert [t.config for t in again.trials()] == [t.config for t in study.trials()]
        assert [t.state for t in again.trials()] == [t.state for t in study.trials()]
        assert all(again.records(level) == study.records(level) for level in RULE.levels)
        assert again.front() == study.front()

    def test_unfinished_trials_keep_number_and_configuration(self, journal):
        study = open_study(journal)
        run_trial(study)
        left = [study.ask(), study.ask()]
        again = open_study(journal)
        assert [(s.trial_id, s.number, dict(s.config)) for s in again.unfinished()] == [
            (s.trial_id, s.number, dict(s.config)) for s in left
        ]
        run_trial(again, again.unfinished()[0])
        assert len(optuna_trials(journal)) == 3

    def test_a_stop_that_was_decided_but_not_told_is_known(self, journal):
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

    def test_a_rule_that_sees_finished_trials_answers_the_same_after_a_restart(self, journal):
        pruner = create_pruner(
            "front_probability", full_budget=BUDGET, classes=10, options={"min_finished": 2}
        )
        study = open_study(journal, pruner=pruner)
        for _ in range(12):
            run_trial(study)
        last = study.ask()
        level = pruner.levels[-1]
        bad = RungRecord(trial_id=last.trial_id, epoch=level, bytes=10**7, accuracy=0.3)
        assert isinstance(study.report(last.trial_id, bad), Stop)
        late = study.ask()  # ends after the verdict, which must not see it
        study.complete(late.trial_id, (10**6, 0.999))
        again = open_study(journal, pruner=pruner)
        assert again.unfinished()[0].stop == study.report(last.trial_id, bad)
        assert again.records(BUDGET) == study.records(BUDGET)
        assert len(study.records(BUDGET)) == len(study.trials("complete"))

    def test_final_values_do_not_touch_the_rungs(self, journal):
        study = open_study(journal)
        suggestion = study.ask()
        study.report(suggestion.trial_id, record(suggestion, 3, 0.4))
        study.complete(suggestion.trial_id, (5000, 0.8))
        again = open_study(journal)
        assert [r.accuracy for r in again.records(3)] == [0.4]
        assert again.trials()[0].curve == {3: 0.4, BUDGET: 0.8}
        assert again.records() == again.records(3)

    def test_suggestions_go_on_as_if_never_interrupted(self, journal, tmp_path):
        settings = ProposerSettings(startup=4)
        whole = open_study(tmp_path / "other.journal", proposer=settings)
        for _ in range(12):
            run_trial(whole)
        for stop_after in (3, 8):
            study = open_study(journal, proposer=settings)
            while len(study.trials()) < stop_after:
                run_trial(study)
        study = open_study(journal, proposer=settings)
        while len(study.trials()) < 12:
            run_trial(study)
        assert [t.config for t in study.trials()] == [t.config for t in whole.trials()]

    def test_a_journal_torn_in_mid_write_is_mended(self, journal):
        study = open_study(journal)
        for _ in range(3):
            run_trial(study)
        whole = journal.read_bytes()
        journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x')
        again = open_study(journal)
        run_trial(again)
        assert len(open_study(journal).trials()) == 4
        assert not mend_journal(journal)

    @pytest.mark.parametrize("share", [0.2, 0.45, 0.7, 0.95])
    def test_a_journal_cut_anywhere_opens(self, journal, share):
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

    def test_sqlite_holds_a_study_too(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        study = open_study(url)
        for _ in range(2):
            run_trial(study)
        study.ask()
        again = open_study(url)
        assert [t.state for t in again.trials()] == ["complete", study.trials()[1].state, "running"]

    def test_two_studies_in_one_storage_are_apart(self, journal):
        run_trial(open_study(journal, name="a"))
        assert open_study(journal, name="b").trials() == ()


class TestSuggestions:
    def test_enqueued_configurations_come_first_and_are_completed(self, journal):
        enqueue = [{"method.name": "ce", "training.lr": 0.01}, {"method.name": "tkd", "method.lam": 0.5}]
        study = open_study(journal, enqueue=enqueue)
        first = study.ask()
        study = open_study(journal, enqueue=enqueue)
        second, third = study.ask(), study.ask()
        assert {"method.name": "ce", "training.lr": 0.01}.items() <= first.config.items()
        assert {"method.name": "tkd", "method.lam": 0.5}.items() <= second.config.items()
        assert all(SPACE.contains(s.config) for s in (first, second, third))

    def test_enqueued_values_outside_the_space_are_refused(self):
        with pytest.raises(ValueError, match=r"enqueue.1.method.lam = 2; allowed: a number in \[0, 1\]"):
            open_study(enqueue=[{}, {"method.lam": 2}])
        with pytest.raises(ValueError, match=r"method.lamb"):
            open_study(enqueue=[{"method.lamb": 0.5}])

    def test_what_is_run_is_what_is_remembered(self, journal):
        def halved(config):
            return {**config, "training.lr": 0.02}

        study = open_study(journal, adjust=halved)
        asked = [study.ask().config for _ in range(3)]
        assert {config["training.lr"] for config in asked} == {0.02}
        assert [t.config for t in open_study(journal).trials()] == asked

    @pytest.mark.parametrize(
        "sampler", ["ehvi", "tpe", "nsga2", "random", "qmc", "optuna.samplers:RandomSampler"]
    )
    @pytest.mark.parametrize("learning", ["full", "highest_rung", "extrapolated"])
    def test_every_sampler_stays_in_the_space(self, sampler, learning):
        settings = ProposerSettings(sampler=sampler, startup=5, learning=learning)
        study = open_study(proposer=settings)
        for _ in range(15):
            run_trial(study)
        assert all(SPACE.contains(t.config) for t in study.trials())
        assert len({tuple(t.config.values()) for t in study.trials()}) == 15

    @pytest.mark.slow
    def test_gp_stays_in_the_space(self):
        study = open_study(proposer=ProposerSettings(sampler="gp", startup=4))
        for _ in range(6):
            run_trial(study)
        assert all(SPACE.contains(t.config) for t in study.trials())

    def test_unknown_samplers_are_refused(self):
        with pytest.raises(ValueError, match="known: ehvi, tpe, nsga2, gp, random, qmc"):
            open_study(proposer=ProposerSettings(sampler="magic"))
        with pytest.raises(ValueError, match="n_candidates"):
            open_study(proposer=ProposerSettings(sampler="tpe", options={"n_candidates": 3}))
        with pytest.raises(ValueError, match="extrapolated"):
            ProposerSettings(learning="none")

    def test_many_trials_may_run_at_once(self):
        """With nothing finished yet, all suggestions differ; running ones do not break the sampler."""
        study = open_study(proposer=ProposerSettings(startup=3))
        for _ in range(5):
            run_trial(study)
        asked = [study.ask() for _ in range(10)]
        assert len({tuple(s.config.values()) for s in asked}) == 10

    def test_earlier_studies_teach_without_being_counted(self, journal):
        study = open_study(journal)
        for _ in range(12):
            run_trial(study)
        earlier = earlier_trials(journal)
        alien = dataclasses.replace(earlier[0], config={"training.momentum": 0.9})
        warm = open_study(earlier=[*earlier, alien], proposer=ProposerSettings(startup=5))
        cold = open_study(proposer=ProposerSettings(startup=5))
        assert warm.ask().config != cold.ask().config
        assert len(warm.trials()) == 1

    def test_missing_earlier_study_is_named(self, journal):
        run_trial(open_study(journal))
        with pytest.raises(ValueError, match="no study 'x'"):
            earlier_trials(journal, "x")

    def test_a_missing_storage_is_not_made(self, tmp_path):
        with pytest.raises(ValueError, match="no study storage"):
            earlier_trials(tmp_path / "none.journal")
        with pytest.raises(ValueError, match="no such file"):
            earlier_trials(f"sqlite:///{tmp_path}/none.db")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "url",
        ["postgresql://user@127.0.0.1:1/db", "foo://bar", "sqlite:////nonexistent/x.db", "sqlite://", "://"],
    )
    def test_a_storage_that_does_not_open_is_named(self, url):
        with pytest.raises(ValueError, match=f"no study storage {url}"):
            earlier_trials(url)

    @pytest.mark.parametrize(
        "content", [b'{"epoch": 1}\n{"ep', b"[1]\n2", b"7", b"a,b\n1,2", b"\x1f\x8b\n\xff"]
    )
    def test_another_file_is_refused_and_left_as_it_is(self, tmp_path, content):
        """A journal that opens loses a half-written last line; another's file must not."""
        file = tmp_path / "other.jsonl"
        file.write_bytes(content)
        with pytest.raises(ValueError, match="no study's journal"):
            earlier_trials(file)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]

    def test_studies_in_a_database_teach(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        run_trial(open_study(url))
        assert len(earlier_trials(url)) == 1
        open_study(url, name="second")
        assert len(earlier_trials(url, "s")) == 1
        with pytest.raises(ValueError, match="not said; there: s, second"):
            earlier_trials(url)


def test_history_is_capped_but_keeps_the_front():
    study = open_study(proposer=ProposerSettings(sampler="tpe", startup=3, cap=8))
    for _ in range(40):
        run_trial(study)
    study.ask()
    proposer = study._proposer
    shown = proposer._storage._shown
    assert 8 <= len(shown) <= 8 + len(study.front())
    points = {t.number for t in study.front()}
    assert points <= {t.number for t in shown}


def test_tpe_finds_better_learning_rates_than_the_design():
    study = open_study(
        proposer=ProposerSettings(sampler="tpe", startup=10),
        pruner=create_pruner("never", full_budget=9, classes=10),
    )
    for _ in range(60):
        run_trial(study)
    errors = [abs(t.config["training.lr"] - 0.01) for t in study.trials()]
    assert sum(errors[30:]) / 30 < 0.7 * sum(errors[:10]) / 10


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


def test_mending_waits_for_a_writer(journal):
    """What another search is just appending is no half line."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    writer = context.Process(target=_append_slowly, args=(journal, begun))
    writer.start()
    assert begun.wait(60)
    assert not mend_journal(journal)
    writer.join()
    assert journal.read_bytes() == b'{"n": 0, "padding": 1}\n'


def test_a_reader_leaves_the_journal_of_a_live_search_alone(journal):
    study = open_study(journal)
    run_trial(study)
    with open(journal, "ab") as half:
        half.write(b'{"op_code": ')
    before = journal.read_bytes()
    assert [trial.state for trial in earlier_trials(journal)] == ["complete"]
    assert journal.read_bytes() == before


def test_the_journal_is_read_from_anywhere_though_one_offset_is_kept(journal):
    """A reader that goes on, one that starts anew, and Optuna's own see the same records."""
    study, slim = open_study(journal), SlimJournal(str(journal))
    seen = []
    for _ in range(4):
        run_trial(study)
        seen += slim.read_logs(len(seen))
    theirs = list(optuna.storages.journal.JournalFileBackend(str(journal)).read_logs(0))
    assert seen == theirs == list(slim.read_logs(0))
    assert list(slim.read_logs(7)) == theirs[7:]


def test_trials_share_names_and_distributions(journal):
    """What a trial adds to memory is its values; its leaves and their distributions exist once."""
    study = open_study(journal, space=Space({"training.lr": FloatDistribution(1e-3, 1e-1, log=True)}))
    first, second = (study._storage.get_trial(study.ask().number) for _ in range(2))
    assert first.distributions["training.lr"] is second.distributions["training.lr"]
    assert next(iter(first.params)) is next(iter(second.params))
    assert study.trial("t0001").config is second.params
