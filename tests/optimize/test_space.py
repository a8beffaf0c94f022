"""Distributions, conditions and points of the search space."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.optimize.space import (
    Choice,
    Condition,
    FloatDistribution,
    IntDistribution,
    Space,
    parse_distribution,
)

DISTRIBUTIONS = [
    FloatDistribution(0.1, 10, log=True),
    FloatDistribution(-1, 1),
    FloatDistribution(2, 2),
    IntDistribution(1, 10),
    IntDistribution(1, 1000, log=True),
    Choice(("a", "b", 3, True, None)),
]

SPACE = Space(
    {
        "training.lr": FloatDistribution(1e-3, 1e-1, log=True),
        "method.name": Choice(("tkd", "kd", "ce")),
        "method.tau": FloatDistribution(1, 4),
        "method.k": IntDistribution(1, 4),
        "method.activation": Choice(("swish", "prelu")),
        "method.slope": FloatDistribution(0, 1),
    },
    (
        Condition("method.tau", "method.name", ("tkd", "kd")),
        Condition("method.k", "method.name", ("tkd",)),
        Condition("method.activation", "method.name", ("tkd",)),
        Condition("method.slope", "method.activation", ("prelu",)),
    ),
)
EXPECTED = {
    "ce": {"training.lr", "method.name"},
    "kd": {"training.lr", "method.name", "method.tau"},
    "tkd": {"training.lr", "method.name", "method.tau", "method.k", "method.activation"},
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
class TestEveryDistribution:
    @given(u=st.floats(0, 1))
    def test_every_quantile_is_contained(self, distribution, u):
        assert distribution.contains(distribution.at(u))

    def test_ends_are_reached(self, distribution):
        if isinstance(distribution, Choice):
            assert {str(distribution.at(i / 10)) for i in range(11)} == {str(o) for o in distribution.options}
        else:
            assert distribution.at(0.0) == pytest.approx(distribution.low)
            assert distribution.at(1.0) == pytest.approx(distribution.high)

    def test_optuna_suggests_what_is_contained(self, distribution):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(20):
            trial = study.ask()
            value = distribution.suggest(trial, "x")
            assert distribution.contains(value)
            assert trial.distributions["x"] == distribution.to_optuna()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"float": [0.1, 10], "log": True}, FloatDistribution(0.1, 10.0, True)),
        ({"float": [0, 1]}, FloatDistribution(0.0, 1.0)),
        ({"int": [1, 10]}, IntDistribution(1, 10)),
        ({"int": [1, 10.0], "log": True}, IntDistribution(1, 10, True)),
        ({"choice": ["a", 2, None]}, Choice(("a", 2, None))),
        (3, None),
        ("float", None),
        ([1, 2], None),
        ({"low": 1}, None),
    ],
)
def test_parse(written, expected):
    assert parse_distribution(written) == expected


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"float": [2, 1]}, "low 2 is above high 1"),
        ({"float": [0, 1], "log": True}, "log scale needs low > 0"),
        ({"float": [0, 1], "step": 1}, "unknown key 'step'"),
        ({"float": [0]}, "two numbers"),
        ({"float": ["a", 1]}, "two numbers"),
        ({"float": [True, 1]}, "two numbers"),
        ({"float": [0, float("inf")]}, "two numbers"),
        ({"float": 3}, "takes a list"),
        ({"float": [0, 1], "log": "yes"}, "log is true or false"),
        ({"int": [0.5, 2]}, "whole numbers"),
        ({"int": [0, 1], "float": [0, 1]}, "allowed: one of them"),
        ({"choice": []}, "at least one option"),
        ({"choice": ["a", "a"]}, "appears twice"),
        ({"choice": [[1]]}, "is not a text"),
        ({"choice": ["a"], "log": True}, "unknown key 'log'"),
    ],
)
def test_malformed_distributions_are_refused_with_a_reason(written, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_distribution(written)


def test_one_and_true_are_different_options():
    assert Choice((1, True)).options == (1, True)
    assert not Choice((1,)).contains(True)
    assert Choice((1,)).contains(1.0)


@given(st.lists(st.floats(0, 1), min_size=len(SPACE.leaves), max_size=len(SPACE.leaves)))
def test_a_point_gives_exactly_the_active_leaves(point):
    config = SPACE.at(point)
    expected = set(EXPECTED[config["method.name"]])
    if config.get("method.activation") == "prelu":
        expected.add("method.slope")
    assert set(config) == expected
    assert SPACE.contains(config)


@given(st.integers(0, 10_000))
def test_suggested_configurations_are_contained(seed):
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    config = SPACE.suggest(trial)
    assert SPACE.contains(config)
    assert trial.params == config


def test_given_values_are_kept_and_inactive_ones_dropped():
    config = SPACE.at([0.5] * len(SPACE.leaves), {"method.name": "ce", "method.k": 2})
    assert config == {"method.name": "ce", "training.lr": pytest.approx(0.01)}


def test_contains_refuses_missing_extra_and_outside():
    config = {"method.name": "ce", "training.lr": 0.01}
    assert SPACE.contains(config)
    assert not SPACE.contains({"method.name": "ce"})
    assert not SPACE.contains({**config, "method.k": 2})
    assert not SPACE.contains({**config, "training.lr": 1.0})


def test_the_order_of_leaves_does_not_depend_on_the_order_in_the_file():
    shuffled = Space(dict(reversed(SPACE.leaves.items())), tuple(reversed(SPACE.conditions)))
    assert shuffled.order == SPACE.order
    assert SPACE.order.index("method.name") < SPACE.order.index("method.activation")
    assert SPACE.order.index("method.activation") < SPACE.order.index("method.slope")


def test_conditions_are_checked():
    leaves = {"a": Choice(("x",)), "b": Choice(("y",))}
    with pytest.raises(ValueError, match="not a searched leaf"):
        Space(leaves, (Condition("a", "c", (1,)),))
    with pytest.raises(ValueError, match="cycle"):
        Space(leaves, (Condition("a", "b", ("y",)), Condition("b", "a", ("x",))))
