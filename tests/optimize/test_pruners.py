"""Pruners: the conformance suite for each, and the properties of each."""

import dataclasses
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.optimize.dominance import dominates
from tests.optimize.pruner_conformance import PrunerConformance, accuracies, costs, rungs
from tkd_search.optimize.pruners.base import (
    Continue,
    RungRecord,
    Stop,
    accuracy_floor,
    nearest_in_cost,
    on_front,
    rung_levels,
)
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.pruners.front_probability import FrontProbability
from tkd_search.optimize.pruners.never import Never
from tkd_search.optimize.pruners.single_objective import SingleObjective
from tkd_search.optimize.pruners.stratified import LATE_RUNGS, Stratified


def record(i, size, accuracy, epoch=3):
    return RungRecord(trial_id=f"t{i:04d}", epoch=epoch, cost=size, accuracy=accuracy)


class TestNever(PrunerConformance):
    def create_pruner(self):
        return create_pruner("never", full_budget=self.full_budget, classes=self.classes)

    @given(st.data())
    def test_no_trial_is_stopped(self, data):
        assert self.create_pruner().decide(*data.draw(rungs((3,)))) == Continue()


class TestSingleObjective(PrunerConformance):
    def create_pruner(self):
        return create_pruner("single_objective", full_budget=self.full_budget, classes=self.classes)

    def test_the_best_third_goes_on(self):
        records = [record(i, 1000, i / 10) for i in range(8)]
        kept = [
            accuracy
            for accuracy in np.arange(0, 0.8, 0.05)
            if self.create_pruner().decide(records, record(9, 1000, float(accuracy))) == Continue()
        ]
        assert min(kept) == pytest.approx(0.5)

    def test_with_fewer_than_eta_trials_a_trial_goes_on(self):
        decide = self.create_pruner().decide
        assert decide([record(0, 1000, 0.9)], record(9, 1000, 0.1)) == Continue()
        assert isinstance(decide([record(i, 1000, 0.9) for i in range(2)], record(9, 1000, 0.1)), Stop)


class TestStratified(PrunerConformance):
    def create_pruner(self):
        return create_pruner("stratified", full_budget=self.full_budget, classes=self.classes)

    @given(st.data())
    def test_front_is_never_stopped_above_the_floor(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        pruner = self.create_pruner()
        assume(newcomer.accuracy >= pruner.floor and on_front(records, newcomer))
        assert pruner.decide(records, newcomer) == Continue()

    @given(st.data())
    def test_a_trial_below_the_floor_is_stopped_once_another_is_above(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        pruner = self.create_pruner()
        assume(any(r.accuracy >= pruner.floor for r in records))
        low = dataclasses.replace(newcomer, cost=1, accuracy=pruner.floor - 0.01)
        assert isinstance(pruner.decide(records, low), Stop)

    @given(st.data(), st.floats(0.5, 1.0))
    def test_records_of_distant_sizes_have_no_effect(self, data, accuracy):
        """Large accurate students, however many, do not stop a small one that is accurate for its size."""
        small = [record(i, 1000 + i, 0.3 + 0.01 * i, epoch=9) for i in range(12)]
        large = [record(100 + i, 10**6 + i, accuracy, epoch=9) for i in range(data.draw(st.integers(0, 30)))]
        newcomer = record(999, 1100, 0.4, epoch=9)
        pruner = dataclasses.replace(self.create_pruner(), stratum=12)
        assert pruner.decide(small + large, newcomer) == pruner.decide(small, newcomer) == Continue()

    def test_a_trial_goes_on_until_six_others_that_are_no_larger_are_recorded(self):
        better = [record(i, 1000, 0.9, epoch=9) for i in range(6)]
        newcomer = record(99, 1000, 0.5, epoch=9)
        larger, with_nan = record(7, 2000, 0.9, epoch=9), record(8, 1000, math.nan, epoch=9)
        assert self.create_pruner().decide([*better[:5], larger, with_nan], newcomer) == Continue()
        assert isinstance(self.create_pruner().decide(better, newcomer), Stop)

    @pytest.mark.parametrize(("epoch", "number"), [(9, 10), (18, 8)])
    def test_the_best_half_goes_on_at_the_first_rung_and_four_in_ten_at_the_second(self, epoch, number):
        ladder = [record(i, 1000, 0.3 + i / 100, epoch=epoch) for i in range(20)]
        going = [one for one in ladder if self.create_pruner().decide(set(ladder) - {one}, one) == Continue()]
        assert going == ladder[-number:]

    def test_the_reason_has_the_figures(self):
        records = [record(i, 1000, 0.5 + i / 100) for i in range(20)]
        decision = self.create_pruner().decide(records, record(99, 1000, 0.5, epoch=9))
        assert isinstance(decision, Stop)
        assert "50.0% after 9 epochs is 20. of 21 of its cost" in decision.reason

    def test_illegal_arguments_are_refused(self):
        with pytest.raises(ValueError, match="2 rungs"):
            Stratified(levels=(3, 9), keep=(0.5,), floor=0.1)
        with pytest.raises(ValueError, match="allowed"):
            Stratified(levels=(3,), keep=(1.5,), floor=0.1)


def test_where_all_are_below_the_floor_no_trial_is_stopped():
    pruner = create_pruner("stratified", full_budget=27, classes=200)
    records = [record(i, 1000 + i, 0.005, epoch=9) for i in range(30)]
    assert pruner.decide(records, record(99, 900, 0.006, epoch=9)) == Continue()


def test_the_floor_is_a_share_of_the_way_from_chance_to_one():
    assert accuracy_floor(10, 0.05) == pytest.approx(0.145)
    assert accuracy_floor(4, 0.0) == 0.25


def finished(i, size, early, late):
    """Return the records of a trial at the rung and at the end."""
    return [record(i, size, early), record(i, size, late, epoch=27)]


class TestFrontProbability(PrunerConformance):
    def create_pruner(self):
        return create_pruner("front_probability", full_budget=self.full_budget, classes=self.classes)

    def levels(self):
        return (9,)

    @staticmethod
    def history(spread):
        """Twelve trials that halved their error; ``spread`` is that of the accuracies at epoch 9."""
        early = 0.8 + spread * np.linspace(-1, 1, 12)
        pairs = [finished(i, 1000 + i, a, 0.5 + a / 2) for i, a in enumerate(early)]
        return [dataclasses.replace(r, epoch=9 if r.epoch == 3 else 27) for pair in pairs for r in pair]

    def test_a_trial_with_small_probability_of_reaching_the_front_is_stopped(self):
        decision = self.create_pruner().decide(self.history(0.15), record(99, 2000, 0.3, epoch=9))
        assert isinstance(decision, Stop)
        assert "chance" in decision.reason

    def test_a_trial_that_may_reach_the_front_goes_on(self):
        assert self.create_pruner().decide(self.history(0.15), record(99, 2000, 0.93, epoch=9)) == Continue()

    def test_larger_students_do_not_stop_a_trial(self):
        assert self.create_pruner().decide(self.history(0.15), record(99, 900, 0.3, epoch=9)) == Continue()

    def test_where_all_finished_students_are_larger_a_trial_goes_on(self):
        rival = record(50, 800, 0.9, epoch=9)  # not finished
        assert (
            self.create_pruner().decide([*self.history(0.15), rival], record(99, 900, 0.3, epoch=9))
            == Continue()
        )

    def test_a_trial_on_the_front_of_its_rung_goes_on_with_any_probability(self):
        larger = [dataclasses.replace(r, cost=5000) for r in self.history(0.15)]
        best = record(50, 1000, 0.99, epoch=27)  # of an earlier search, which had other rungs
        newcomer, as_large = record(99, 1200, 0.3, epoch=9), record(51, 1200, 0.31, epoch=9)
        assert self.create_pruner().decide([*larger, best], newcomer) == Continue()
        assert isinstance(self.create_pruner().decide([*larger, best, as_large], newcomer), Stop)

    def test_below_the_floor_a_trial_is_stopped_once_another_is_above(self):
        pruner, low = self.create_pruner(), record(99, 1, 0.14, epoch=9)
        assert isinstance(pruner.decide([record(0, 1000, pruner.floor, epoch=9)], low), Stop)
        assert pruner.decide([record(0, 1000, 0.14, epoch=9)], low) == Continue()

    def test_a_trial_goes_on_until_enough_trials_have_finished(self):
        few = [r for r in self.history(0.15) if r.epoch == 9 or r.trial_id < "t0005"]
        assert self.create_pruner().decide(few, record(99, 2000, 0.3, epoch=9)) == Continue()

    @given(st.data())
    def test_the_conformance_properties_hold_with_finished_trials(self, data):
        """Order has no effect; more accuracy never stops a trial; a dominating newcomer goes on."""
        drawn = data.draw(st.lists(st.tuples(costs, accuracies, accuracies), min_size=8, max_size=20))
        records = [
            dataclasses.replace(r, epoch=9 if r.epoch == 3 else 27)
            for i, trial in enumerate(drawn)
            for r in finished(i, *trial)
        ]
        newcomer = record(99, data.draw(costs), data.draw(accuracies), epoch=9)
        pruner = self.create_pruner()
        decision = pruner.decide(records, newcomer)
        assert pruner.decide(data.draw(st.permutations(records)), newcomer) == decision
        better = dataclasses.replace(newcomer, accuracy=newcomer.accuracy + 0.1)
        assert decision != Continue() or pruner.decide(records, better) == Continue()
        best = dataclasses.replace(newcomer, cost=500, accuracy=max(a for _, a, _ in drawn) + 0.01)
        assert best.accuracy < pruner.floor or pruner.decide(records, best) == Continue()

    def test_chance_must_be_a_probability(self):
        with pytest.raises(ValueError, match="chance"):
            create_pruner("front_probability", full_budget=9, classes=2, options={"chance": 1.5})
        assert isinstance(create_pruner("front_probability", full_budget=9, classes=2), FrontProbability)


@given(st.integers(1, 500))
def test_levels_of_any_budget(full_budget):
    levels = rung_levels(full_budget)
    assert list(levels) == sorted(set(levels))
    assert all(0 < level < full_budget for level in levels)
    pruner = create_pruner("stratified", full_budget=full_budget, classes=10)
    assert pruner.levels == rung_levels(full_budget, LATE_RUNGS)
    assert len(pruner.keep) == len(pruner.levels)


def test_levels_of_the_default_budget():
    assert rung_levels(27) == (3, 9)
    assert create_pruner("stratified", full_budget=27, classes=10).levels == (9, 18)
    assert create_pruner("front_probability", full_budget=30, classes=10).levels == (5, 10, 15, 20, 25)


@pytest.mark.parametrize(
    ("pruner", "options", "complaint"),
    [
        ("front_probability", {"chance": "high"}, "chance = 'high'; allowed: a number"),
        ("front_probability", {"chance": True}, "chance = True"),
        ("front_probability", {"chance": math.nan}, "chance = nan"),
        ("front_probability", {"chance": 1}, "chance = 1; allowed: a number ≥ 0, < 1"),
        ("front_probability", {"shares": 0.5}, "shares = 0.5; allowed: a list"),
        ("front_probability", {"shares": [2]}, "shares = 2; allowed: a number > 0, < 1"),
        ("front_probability", {"shares": []}, r"shares = \[\]"),
        ("front_probability", {"shares": ["half"]}, "shares = 'half'"),
        (
            "front_probability",
            {"neighbours": 5},
            "neighbours = 5; allowed: a whole number ≥ min_finished = 8",
        ),
        ("front_probability", {"min_finished": 30}, "neighbours = 24; .* min_finished = 30"),
        ("front_probability", {"min_finished": 1}, "min_finished = 1; allowed: a whole number ≥ 2"),
        ("front_probability", {"min_finished": 8.5}, "min_finished = 8.5"),
        ("front_probability", {"margin": "wide"}, "margin = 'wide'"),
        ("front_probability", {"margin": 5}, "margin = 5; allowed: a number ≥ 0, < 1"),
        ("stratified", {"keep": 0.5}, "keep = 0.5; allowed: a list"),
        ("stratified", {"keep": [0.5, "few"]}, "keep = 'few'"),
        ("stratified", {"keep": [0.5, 0]}, "keep = 0; allowed: a number > 0, ≤ 1"),
        ("stratified", {"stratum": 0}, "stratum = 0"),
        ("stratified", {"min_records": "few"}, "min_records = 'few'"),
        ("stratified", {"margin": -1}, "margin = -1"),
        ("stratified", {"margin": 1}, "margin = 1; allowed"),
        ("stratified", {"shares": [1 / 3, 1]}, "shares = 1;"),
        ("single_objective", {"eta": 0}, "eta = 0; allowed: a number > 1"),
        ("single_objective", {"eta": 1}, "eta = 1"),
        ("single_objective", {"eta": math.inf}, "eta = inf"),
        ("single_objective", {"eta": "three"}, "eta = 'three'"),
    ],
)
def test_arguments_that_raise_later_or_never_stop_a_trial_are_refused(pruner, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        create_pruner(pruner, full_budget=27, classes=10, options=options)


def test_a_pruner_with_the_least_legal_arguments_stops_trials():
    """As many neighbours as trials that must have finished."""
    pruner = create_pruner(
        "front_probability", full_budget=27, classes=10, options={"neighbours": 2, "min_finished": 2}
    )
    records = [r for i in range(2) for r in finished(i, 1000, 0.9, 0.95)]
    assert isinstance(pruner.decide(records, record(9, 2000, 0.2)), Stop)


@pytest.mark.parametrize("path", ["builtins:dict", "os:getpid", "math:pi", ".rules:Rule"])
def test_an_import_path_without_a_pruner_is_refused(path):
    with pytest.raises(ValueError, match="pruner"):
        create_pruner(path, full_budget=9, classes=2)


def test_neighbours_are_nearest_in_log_size_with_ties():
    records = [record(0, 100, 0.1), record(1, 400, 0.1), record(2, 2000, 0.1), record(3, 100, 0.2)]
    found = nearest_in_cost(records, record(9, 200, 0.5), 1)
    assert {r.trial_id for r in found} == {"t0000", "t0001", "t0003"}
    alike = tuple(record(i, 200, 0.1) for i in range(3))
    assert nearest_in_cost(alike, record(9, 200, 0.5), 1) == alike


def test_a_record_that_no_other_dominates_is_on_the_front():
    newcomer = record(9, 1000, 0.5)
    for size, accuracy in product((900, 1000, 1100), (0.4, 0.5, 0.6)):
        dominated = dominates((size, -accuracy), (newcomer.cost, -newcomer.accuracy))
        assert on_front([record(0, size, accuracy)], newcomer) != dominated


def test_pruners_by_name_and_by_import_path():
    assert create_pruner("never", full_budget=9, classes=2) == Never()
    path = "tkd_search.optimize.pruners.single_objective:SingleObjective"
    assert create_pruner(path, full_budget=9, classes=2, options={"eta": 2.0}) == SingleObjective(
        levels=(1, 3), eta=2.0
    )
    with pytest.raises(ValueError, match="known: never"):
        create_pruner("asha", full_budget=9, classes=2)
    with pytest.raises(ValueError, match="eta_max"):
        create_pruner("single_objective", full_budget=9, classes=2, options={"eta_max": 2})
    with pytest.raises(ValueError, match="no_such"):
        create_pruner("no_such_module:Rule", full_budget=9, classes=2)
