"""The study: states, rungs, suggestions."""

import dataclasses

import pytest
from optuna.trial import TrialState as OptunaState

from tests.optimize.studies import (
    BUDGET,
    PRUNER,
    SPACE,
    open_study,
    optuna_trials,
    record,
    records_at,
    run_trial,
    size_of,
)
from tkd_search.optimize.pareto import CostScale, nondominated_mask
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import Stop
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.space import Choice, Space
from tkd_search.optimize.study import earlier_trials


class TestEnds:
    def test_complete_stopped_and_failed_trials_have_different_optuna_states(self, journal):
        study = open_study(journal)
        for accuracy in (0.5, 0.6, 0.1):
            suggestion = study.ask()
            decision = study.report(suggestion.trial_id, record(suggestion, 1, accuracy))
            if isinstance(decision, Stop):
                study.prune(suggestion.trial_id, None, decision.reason)
            else:
                study.complete(suggestion.trial_id, (1000, accuracy))
        failing = study.ask()
        study.fail(failing.trial_id, "out of memory")
        states = [t.state for t in optuna_trials(journal)]
        assert states == [OptunaState.COMPLETE, OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL]

    def test_values_are_cost_and_accuracy(self, journal):
        study = open_study(journal)
        suggestion = study.ask()
        study.report(suggestion.trial_id, record(suggestion, 1, 0.25))
        study.complete(suggestion.trial_id)
        assert optuna_trials(journal)[0].values == [size_of(suggestion.config), 0.25]

    def test_stopped_trials_have_no_values_and_keep_their_figures(self, journal):
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
    def test_an_accuracy_that_is_not_finite_fails_the_trial(self, value):
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

    def test_a_failed_trial_has_the_size_of_its_student(self, journal):
        study = open_study(journal)
        unreported, reported = study.ask(), study.ask()
        study.report(reported.trial_id, record(reported, 1))
        for suggestion in (unreported, reported):
            study.fail(suggestion.trial_id, "out of memory", 1234)
        assert [t.cost for t in open_study(journal).trials()] == [1234, size_of(reported.config)]

    def test_a_trial_that_has_ended_keeps_its_end(self):
        study = open_study()
        suggestion = study.ask()
        study.report(suggestion.trial_id, record(suggestion, 1))
        study.complete(suggestion.trial_id)
        study.fail(suggestion.trial_id, "late crash")
        assert study.trial(suggestion.trial_id).state == "complete"
        assert isinstance(study.report(suggestion.trial_id, record(suggestion, 2)), Stop)

    def test_no_trial_is_running_after_the_last_end(self, journal):
        study = open_study(journal)
        for _ in range(30):
            run_trial(study)
        assert not study.unfinished()
        assert all(t.state.is_finished() for t in optuna_trials(journal))
        assert {t.state for t in study.trials()} == {"complete", "stopped"}


class TestRungs:
    def test_records_are_in_order_of_arrival(self):
        study = open_study(pruner=create_pruner("stratified", full_budget=BUDGET, classes=10))
        suggestions = [study.ask() for _ in range(5)]
        for i in (3, 0, 4, 1, 2):
            study.report(suggestions[i].trial_id, record(suggestions[i], 3, 0.5))
        assert [r.trial_id for r in records_at(study, 3)] == ["t0003", "t0000", "t0004", "t0001", "t0002"]
        assert records_at(study, 6) == []

    def test_replaying_the_records_reproduces_each_stop(self, journal):
        study = open_study(journal)
        for _ in range(40):
            run_trial(study)
        again = open_study(journal)
        stopped_live = {t.trial_id for t in study.trials("stopped")}
        stopped_replayed = {
            r.trial_id
            for level in PRUNER.levels
            for i, r in enumerate(records_at(again, level))
            if isinstance(PRUNER.decide(records_at(again, level)[:i], r), Stop)
        }
        assert stopped_live
        assert stopped_replayed == stopped_live

    def test_a_repeated_report_is_recorded_once_with_the_same_decision(self):
        study = open_study()
        first, second = study.ask(), study.ask()
        study.report(first.trial_id, record(first, 1, 0.9))
        stop = study.report(second.trial_id, record(second, 1, 0.1))
        again = study.report(second.trial_id, record(second, 1, 0.95))
        assert isinstance(stop, Stop)
        assert again == stop
        assert [r.accuracy for r in records_at(study, 1)] == [0.9, 0.1]

    def test_decisions_are_those_of_the_pruner(self):
        study = open_study()
        for _ in range(25):
            suggestion = study.ask()
            before = records_at(study, 1)
            newcomer = record(suggestion, 1)
            assert study.report(suggestion.trial_id, newcomer) == PRUNER.decide(before, newcomer)


class TestSuggestions:
    def test_enqueued_configurations_are_first_and_get_their_missing_leaves(self, journal):
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
        with pytest.raises(ValueError, match=r"enqueue\.0\.method\.lamb = 0\.5; allowed: one of "):
            open_study(enqueue=[{"method.lamb": 0.5}])

    def test_the_study_has_the_adjusted_configurations(self, journal):
        def fix_rate(config):
            return {**config, "training.lr": 0.02}

        study = open_study(journal, adjust=fix_rate)
        suggested = [study.ask().config for _ in range(3)]
        assert {config["training.lr"] for config in suggested} == {0.02}
        assert [t.config for t in open_study(journal).trials()] == suggested

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

    @pytest.mark.parametrize(
        ("sampler", "options"), [("ehvi", {}), ("tpe", {}), ("nsga2", {"population_size": 6})]
    )
    def test_a_resumed_search_is_suggested_the_same(self, tmp_path, sampler, options):
        settings = ProposerSettings(sampler=sampler, startup=4, options=options, learning="extrapolated")

        def suggested(name, reopened):
            for number in range(60):
                if number in reopened:
                    study = open_study(tmp_path / name, proposer=settings)
                run_trial(study)
            return [trial.config for trial in study.trials()]

        assert suggested("whole", {0}) == suggested("resumed", {0, *range(9, 60, 4)})

    @pytest.mark.slow
    def test_gp_stays_in_the_space(self):
        study = open_study(proposer=ProposerSettings(sampler="gp", startup=4))
        for _ in range(6):
            run_trial(study)
        assert all(SPACE.contains(t.config) for t in study.trials())

    def test_unknown_options_of_a_sampler_are_refused(self):
        with pytest.raises(ValueError, match="n_candidates"):
            open_study(proposer=ProposerSettings(sampler="tpe", options={"n_candidates": 3}))

    def test_suggestions_of_concurrent_trials_differ(self):
        study = open_study(proposer=ProposerSettings(startup=3))
        for _ in range(5):
            run_trial(study)
        suggestions = [study.ask() for _ in range(10)]
        assert len({tuple(s.config.values()) for s in suggestions}) == 10

    @pytest.mark.parametrize("seed", range(8))
    def test_a_small_space_is_tried_whole_before_a_configuration_is_repeated(self, seed):
        choices = {"student.format": Choice(("fp16", "int8", "int4")), "method.name": Choice(("kd", "ce"))}
        study = open_study(space=Space(choices), seed=seed, proposer=ProposerSettings(startup=20))
        tried = [tuple(study.ask().config.values()) for _ in range(6)]
        assert len(set(tried)) == 6

    def test_trials_of_earlier_studies_change_suggestions_and_are_not_counted(self, journal):
        study = open_study(journal)
        for _ in range(12):
            run_trial(study)
        earlier = earlier_trials(journal)
        outside = dataclasses.replace(earlier[0], config={"training.momentum": 0.9})
        warm = open_study(earlier=[*earlier, outside], proposer=ProposerSettings(startup=5))
        cold = open_study(proposer=ProposerSettings(startup=5))
        assert warm.ask().config != cold.ask().config
        assert len(warm.trials()) == 1

    def test_the_error_names_a_missing_study(self, journal):
        run_trial(open_study(journal))
        with pytest.raises(ValueError, match="no study 'x'"):
            earlier_trials(journal, "x")

    def test_a_missing_storage_is_not_created(self, tmp_path):
        with pytest.raises(ValueError, match="no study storage"):
            earlier_trials(tmp_path / "none.journal")
        with pytest.raises(ValueError, match="no such file"):
            earlier_trials(f"sqlite:///{tmp_path}/none.db")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "url",
        ["postgresql://user@127.0.0.1:1/db", "foo://bar", "sqlite:////nonexistent/x.db", "sqlite://", "://"],
    )
    def test_the_error_names_a_storage_that_does_not_open(self, url):
        with pytest.raises(ValueError, match=f"no study storage {url}"):
            earlier_trials(url)

    @pytest.mark.parametrize(
        "content", [b'{"epoch": 1}\n{"ep', b"[1]\n2", b"7", b"a,b\n1,2", b"\x1f\x8b\n\xff"]
    )
    def test_a_file_that_is_not_a_journal_is_refused_and_not_changed(self, tmp_path, content):
        """Opening a journal removes a half-written last line; another file must not lose its."""
        file = tmp_path / "other.jsonl"
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not the journal of a study"):
            earlier_trials(file)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]

    def test_trials_of_another_cost_are_refused(self, journal):
        open_study(journal, scale=CostScale(0.6, 2.0, "latency_ms"))
        assert earlier_trials(journal, unit="latency_ms") == ()
        with pytest.raises(ValueError, match="minimises latency_ms; this search minimises bytes"):
            earlier_trials(journal)

    def test_earlier_trials_can_come_from_a_database(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        run_trial(open_study(url))
        assert len(earlier_trials(url)) == 1
        open_study(url, name="second")
        assert len(earlier_trials(url, "s")) == 1
        with pytest.raises(ValueError, match="no name of a study given; studies: s, second"):
            earlier_trials(url)


def test_the_history_of_a_sampler_is_capped_and_keeps_the_front():
    study = open_study(proposer=ProposerSettings(sampler="tpe", startup=3, cap=8))
    for _ in range(40):
        run_trial(study)
    study.ask()
    proposer = study._proposer
    shown = proposer._storage._shown
    complete = study.trials("complete")
    mask = nondominated_mask([[t.cost, t.accuracy] for t in complete])
    front = {t.number for t, on_front in zip(complete, mask, strict=True) if on_front}
    assert 8 <= len(shown) <= 8 + len(front)
    assert front <= {t.number for t in shown}


def test_tpe_finds_better_learning_rates_than_the_design():
    study = open_study(
        proposer=ProposerSettings(sampler="tpe", startup=10),
        pruner=create_pruner("never", full_budget=9, classes=10),
    )
    for _ in range(60):
        run_trial(study)
    errors = [abs(t.config["training.lr"] - 0.01) for t in study.trials()]
    assert sum(errors[30:]) / 30 < 0.7 * sum(errors[:10]) / 10
