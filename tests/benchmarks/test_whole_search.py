"""The benchmark of whole searches: its figures, and the loop that a user would write."""

import json
import math
import sys

import pytest

from benchmarks.whole_search import __main__ as whole_search
from benchmarks.whole_search.figures import Curve, Point, figures, table

POINTS = (Point(10.0, 12, 0.5), Point(20.0, 24, 0.8), Point(40.0, 36, 0.9))


def curve(name: str, seed: int = 0, times: float = 1.0, share: float = 1.0) -> Curve:
    """A search ``times`` as slow as ``POINTS`` that reaches ``share`` of their hypervolumes."""
    return Curve(
        name=name,
        seed=seed,
        points=tuple(Point(times * p.seconds, p.epochs, share * p.hypervolume) for p in POINTS),
    )


def test_a_search_is_timed_to_the_first_trial_with_the_target() -> None:
    assert curve("loop").reached(0.8) == POINTS[1]
    assert curve("loop").reached(0.81) == POINTS[2]
    assert curve("loop").reached(0.91).seconds == math.inf


def test_twice_as_slow_has_a_ratio_of_two_whatever_the_seed() -> None:
    times = {"loop": 2.0, "ours": 1.0}
    curves = [curve(name, seed, (1 + seed) * times[name]) for seed in range(3) for name in times]
    found = figures(curves)
    assert found["loop"]["over_ours"] == pytest.approx(2.0)
    assert found["ours"]["over_ours"] == 1.0
    assert found["ours"]["epochs"] == 36


def test_a_search_that_misses_the_target_takes_for_ever() -> None:
    found = figures([curve("loop"), curve("ours", share=0.9)])
    assert found["ours"]["seconds"] == math.inf
    assert found["loop"]["over_ours"] == 0.0
    assert len(table(found)) == 3


def test_the_loop_runs_and_is_not_run_again(tmp_path, monkeypatch, capsys) -> None:
    words = "--seeds 1 --searches loop --set search.trials=2 --set training.epochs=1 --set big_model.epochs=1"
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["whole_search", *words.split(), "--json", str(file)])
    whole_search.main()
    (loop,) = json.loads(file.read_text())["curves"]
    assert [point[1] for point in loop["points"]] == [1, 2]
    assert 0 < loop["points"][0][0] < loop["points"][1][0]
    capsys.readouterr()
    whole_search.main()
    assert capsys.readouterr().out == ""
