"""The black box, and a search replayed in virtual time by the real study and rule."""

import numpy as np
import pytest

from benchmarks.simulator import moasha
from benchmarks.simulator.moasha import MoashaStudy
from benchmarks.simulator.replay import simulate
from benchmarks.simulator.surrogate import Outcome, Surrogate, Table, encode
from tkd_search.optimize.history import rungs_of
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import Stop
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.study import SearchStudy


@pytest.fixture(scope="module")
def black_box(synthetic):
    return Surrogate(synthetic, trees=30)


def open_study(curves, pruner="stratified", seed=0, **options):
    return SearchStudy.open(
        "s",
        None,
        space=curves.space,
        full_budget=curves.epochs,
        pruner=create_pruner(pruner, full_budget=curves.epochs, classes=curves.classes),
        seed=seed,
        proposer=ProposerSettings(sampler="random", **options),
    )


def replay(study, curves, black_box, **options):
    return simulate(
        study,
        black_box,
        full_budget=curves.epochs,
        classes=curves.classes,
        scale=curves.scale,
        **options,
    )


class TestSurrogate:
    def test_predicts_what_it_did_not_see(self, black_box):
        assert black_box.fidelity.r_squared[27] > 0.4
        assert black_box.fidelity.rank_correlation[27] > 0.6
        assert "epoch 27: R²" in str(black_box.fidelity)

    def test_a_configuration_has_one_outcome(self, synthetic, black_box):
        again = Surrogate(synthetic, trees=30)
        config = synthetic.space.at([0.3] * len(synthetic.space.leaves))
        assert (black_box.evaluate(config).accuracy == again.evaluate(config).accuracy).all()

    def test_noise_is_like_the_recorded_one(self, synthetic, black_box):
        """Spread of outcomes over configurations matches the recording's."""
        rng = np.random.default_rng(0)
        points = [synthetic.space.at(rng.random(len(synthetic.space.leaves)).tolist()) for _ in range(150)]
        drawn = np.array([black_box.evaluate(p).accuracy for p in points])
        assert drawn[:, -1].std() == pytest.approx(synthetic.accuracy[:, -1].std(), rel=0.35)
        assert ((drawn >= 0) & (drawn <= 1)).all()

    def test_bytes_come_from_the_nearest_student(self, synthetic, black_box):
        for row in (0, 17, 55):
            assert black_box.evaluate(synthetic.configs[row]).bytes == synthetic.bytes[row]

    def test_bytes_may_be_computed(self, synthetic):
        box = Surrogate(synthetic, trees=5, size_of=lambda config: 4242)
        assert box.evaluate(synthetic.configs[0]).bytes == 4242

    def test_encoding_marks_inactive_leaves(self, synthetic):
        lengths = {len(encode(synthetic.space, config)) for config in synthetic.configs}
        assert len(lengths) == 1
        plain = next(c for c in synthetic.configs if c["method.name"] == "ce")
        assert (encode(synthetic.space, plain) == -1).sum() == 6


def test_table_mode_gives_recorded_rows_alone(synthetic):
    table = Table(synthetic)
    assert (table.evaluate(synthetic.configs[7]).accuracy == synthetic.accuracy[7]).all()
    rows = {tuple(row) for row in synthetic.accuracy}
    point = synthetic.space.at([0.123] * len(synthetic.space.leaves))
    assert tuple(table.evaluate(point).accuracy) in rows
    near = table.nearest(synthetic.configs[7], without=frozenset({7}))
    assert near != 7


def test_table_mode_draws_without_replacement(synthetic):
    draw = Table(synthetic).drawing()
    point = synthetic.space.at([0.5] * len(synthetic.space.leaves))
    drawn = [tuple(draw(point).items()) for _ in range(len(synthetic))]
    assert len(set(drawn)) == len(synthetic)
    assert set(drawn) == {tuple(config.items()) for config in synthetic.configs}
    assert tuple(draw(point).items()) == drawn[0]


class TestReplay:
    def test_without_stopping_every_trial_is_whole(self, synthetic, black_box):
        result = replay(open_study(synthetic, "never"), synthetic, black_box, max_trials=20)
        assert (result.trials, result.stopped) == (20, 0)
        assert result.epochs_spent == 20 * synthetic.epochs
        assert result.regret_stops == 0
        assert result.lost_hypervolume == pytest.approx(0)

    def test_epoch_budget_is_kept_up_to_the_running_trials(self, synthetic, black_box):
        result = replay(open_study(synthetic), synthetic, black_box, max_epochs=500, slots=4)
        assert 500 <= result.epochs_spent <= 500 + 4 * synthetic.epochs
        assert result.stopped > 0
        assert result.trials > 500 / synthetic.epochs

    def test_hypervolume_only_rises(self, synthetic, black_box):
        result = replay(open_study(synthetic), synthetic, black_box, max_epochs=800)
        assert (np.diff(result.hypervolume) >= 0).all()
        assert result.at(10_000) == result.hypervolume[-1]
        assert result.at(0) == 0.0
        assert result.epochs_to(result.hypervolume[-1]) <= result.epochs_spent
        assert result.epochs_to(2.0) == float("inf")

    def test_slots_run_at_once(self, synthetic, black_box):
        study = open_study(synthetic, "never")
        most = 0
        original = study.report

        def watched(trial_id, record):
            nonlocal most
            most = max(most, len(study.trials("running")))
            return original(trial_id, record)

        study.report = watched
        replay(study, synthetic, black_box, max_trials=20, slots=6)
        assert most == 6

    def test_the_same_seed_gives_the_same_search(self, synthetic, black_box):
        first = replay(open_study(synthetic, seed=4), synthetic, black_box, max_trials=30, seed=4)
        second = replay(open_study(synthetic, seed=4), synthetic, black_box, max_trials=30, seed=4)
        assert (first.hypervolume == second.hypervolume).all()
        assert first.epochs_spent == second.epochs_spent

    def test_regret_counts_front_members_that_were_stopped(self, synthetic):
        """Crossing curves: every early leader ends badly, so halving on accuracy stops the front."""

        class Crossing:
            def evaluate(self, config):
                late = config["training.lr"] < 8e-3
                path = np.linspace(0.1, 0.9, 27) if late else np.linspace(0.5, 0.6, 27)
                return Outcome(int(1e5 * config["student.width"]), path)

        result = replay(open_study(synthetic, "single_objective"), synthetic, Crossing(), max_trials=60)
        assert result.regret_stops > 0.2
        assert result.lost_hypervolume > 0.005

    def test_no_trial_is_left_running(self, synthetic, black_box):
        study = open_study(synthetic)
        replay(study, synthetic, black_box, max_epochs=600)
        assert not study.unfinished()


@pytest.mark.skipif(not moasha.installed(), reason="syne-tune is not installed")
def test_moasha_runs_as_it_is(synthetic, black_box):
    result = replay(MoashaStudy(synthetic.space, synthetic.epochs, 0), synthetic, black_box, max_trials=40)
    assert result.trials == 40
    assert result.stopped > 0


def test_stops_replay_from_the_simulated_study(synthetic, black_box):
    study = open_study(synthetic)
    replay(study, synthetic, black_box, max_epochs=900)
    pruner = create_pruner("stratified", full_budget=synthetic.epochs, classes=synthetic.classes)
    rungs = rungs_of(study.trials())
    stopped = {
        record.trial_id
        for records in rungs.values()
        for i, record in enumerate(records)
        if isinstance(pruner.decide(records[:i], record), Stop)
    }
    assert stopped == {trial.trial_id for trial in study.trials("stopped")}
