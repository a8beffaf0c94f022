"""The oracle: what it is told of the black box is true, and no blind searcher keeps up with it."""

import numpy as np
import pytest

from benchmarks import oracle
from benchmarks.oracle import run_oracle
from benchmarks.search_efficiency import compare
from benchmarks.simulator.surrogate import Surrogate


@pytest.fixture(scope="module")
def black_box(synthetic):
    return Surrogate(synthetic, trees=30)


def test_every_outcome_is_one_that_was_possible(synthetic, black_box):
    configs = synthetic.configs[:40]
    possible = black_box.possible_ends(black_box.mean_curves(configs)[:, -1])
    for config, ends in zip(configs, possible, strict=True):
        assert np.isclose(ends, black_box.evaluate(config).accuracy[-1]).any()


def test_it_is_ahead_of_random_search_and_tries_nothing_twice(synthetic, black_box, monkeypatch):
    monkeypatch.setattr(oracle, "DRAWN", 300)
    monkeypatch.setattr(oracle, "CHILDREN", 100)
    blind = compare(synthetic, black_box, names=["random"], seeds=2, trials=40)["random"]
    for seed in range(2):
        told = run_oracle(synthetic, black_box, seed=seed, pruner="never", options={}, trials=40)
        assert told.hypervolume[-1] > blind.hypervolume[seed, -1]
        assert told.regret_stops == 0
