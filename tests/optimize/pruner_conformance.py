"""Conformance suite of pruners: inherit ``PrunerConformance`` and define ``create_pruner``."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.optimize.dominance import dominates
from tkd_search.optimize.pruners.base import Continue, Pruner, RungRecord, Stop

# Coarse values make ties common.
costs = st.sampled_from([1_000, 2_000, 3_000, 10_000, 30_000, 100_000, 1_000_000])
accuracies = st.integers(0, 20).map(lambda twentieth: twentieth / 20)


@st.composite
def rungs(draw, levels, most=25):
    """Draw the records of one rung and a newcomer."""
    epoch = draw(st.sampled_from(levels))
    drawn = draw(st.lists(st.tuples(costs, accuracies), min_size=1, max_size=most))
    records = [
        RungRecord(trial_id=f"t{i:04d}", epoch=epoch, cost=cost, accuracy=accuracy)
        for i, (cost, accuracy) in enumerate(drawn)
    ]
    return records[:-1], records[-1]


class PrunerConformance:
    """Properties of every pruner."""

    full_budget = 27
    classes = 10

    def create_pruner(self) -> Pruner:
        """Return the pruner under test, for ``full_budget`` epochs and ``classes`` classes."""
        raise NotImplementedError

    def levels(self):
        """Return the rungs of the tests: the pruner's own, or one where it has none."""
        return self.create_pruner().levels or (3,)

    def test_levels_ascend_below_the_full_budget(self):
        levels = self.create_pruner().levels
        assert list(levels) == sorted(set(levels))
        assert all(1 <= level < self.full_budget for level in levels)

    def test_is_a_frozen_value(self):
        assert self.create_pruner() == self.create_pruner()
        assert hash(self.create_pruner()) == hash(self.create_pruner())
        assert isinstance(self.create_pruner(), Pruner)

    @given(st.data())
    def test_decision_does_not_depend_on_the_order_of_records(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        shuffled = data.draw(st.permutations(records))
        pruner = self.create_pruner()
        assert pruner.decide(records, newcomer) == pruner.decide(shuffled, newcomer)

    @given(st.data())
    def test_newcomer_that_dominates_every_record_goes_on(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        best = dataclasses.replace(
            newcomer,
            cost=min((r.cost for r in records), default=1_000),
            accuracy=max((r.accuracy for r in records), default=0.5) + 0.01,
        )
        point = (best.cost, -best.accuracy)
        assert all(dominates(point, (r.cost, -r.accuracy)) for r in records)
        assert self.create_pruner().decide(records, best) == Continue()

    @given(st.data(), st.sampled_from([0.001, 0.5, 7, 1000]))
    def test_decision_does_not_depend_on_the_unit_of_cost(self, data, scale):
        records, newcomer = data.draw(rungs(self.levels()))
        rescaled = [dataclasses.replace(r, cost=r.cost * scale) for r in [*records, newcomer]]
        pruner = self.create_pruner()
        before, after = pruner.decide(records, newcomer), pruner.decide(rescaled[:-1], rescaled[-1])
        assert isinstance(before, Stop) == isinstance(after, Stop)

    @given(st.data())
    def test_more_accuracy_never_stops_a_trial_that_would_go_on(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        better = dataclasses.replace(newcomer, accuracy=newcomer.accuracy + data.draw(st.floats(0, 0.5)))
        pruner = self.create_pruner()
        if pruner.decide(records, newcomer) == Continue():
            assert pruner.decide(records, better) == Continue()

    @given(st.data())
    def test_names_and_records_with_nan_have_no_effect(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        pruner = self.create_pruner()
        renamed = [dataclasses.replace(r, trial_id=f"x{r.trial_id}") for r in records]
        with_nan = dataclasses.replace(newcomer, trial_id="nan", accuracy=float("nan"))
        assert pruner.decide([*renamed, with_nan], newcomer) == pruner.decide(records, newcomer)

    @given(st.data())
    def test_replaying_the_records_reproduces_each_stop(self, data):
        records, newcomer = data.draw(rungs(self.levels()))
        arrivals = [*records, newcomer]
        pruner = self.create_pruner()
        live = [pruner.decide(arrivals[:i], record) for i, record in enumerate(arrivals)]
        again = [
            self.create_pruner().decide(tuple(arrivals[:i]), record) for i, record in enumerate(arrivals)
        ]
        assert live == again

    @given(st.data())
    def test_a_lone_trial_goes_on(self, data):
        _, newcomer = data.draw(rungs(self.levels()))
        assert self.create_pruner().decide([], newcomer) == Continue()
