"""Correlation of early accuracies with the end, and cost and regret of pruners.

    python -m benchmarks.rung_report [--curves FILE]

First, on the recorded curves as they are, Spearman's rank correlation between accuracy at each epoch and
at the end: over all students, and among students of a size (bytes regressed out), which matters to a pruner
that compares students of similar size. Then pruners, on 250 configurations of the black box at a time: the
share of the full epochs that a trial costs, and the share of the true front that was stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from benchmarks.search_efficiency import DEFAULT_CURVES
from benchmarks.simulator.curves import Curves, load_curves
from benchmarks.simulator.surrogate import Outcome, Surrogate
from tkd_search.errors import UserError
from tkd_search.optimize.pareto import nondominated_mask
from tkd_search.optimize.pruners.base import Pruner, RungRecord, Stop
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.samplers.create_sampler import design_point

VARIANTS: Sequence[tuple[Sequence[float], Sequence[float]]] = (
    ((1 / 9, 1 / 3), (0.6, 0.4)),
    ((1 / 3, 2 / 3), (0.4, 0.4)),
    ((1 / 3, 2 / 3), (0.5, 0.5)),
    ((1 / 3, 2 / 3), (0.6, 0.5)),
    ((1 / 3, 2 / 3), (0.7, 0.4)),
    ((1 / 3,), (0.5,)),
    ((2 / 3,), (0.4,)),
)


def correlations(curves: Curves) -> list[tuple[int, float, float]]:
    """Return (epoch, rank correlation with the end, the same among students of a size)."""
    inputs = np.column_stack([np.ones(len(curves)), np.log(curves.bytes)])

    def apart_from_size(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(values - inputs @ np.linalg.lstsq(inputs, values, rcond=None)[0])

    end = curves.accuracy[:, -1]
    return [
        (
            epoch,
            float(spearmanr(now, end).statistic),
            float(spearmanr(apart_from_size(now), apart_from_size(end)).statistic),
        )
        for epoch, now in enumerate(curves.accuracy[:, :-1].T, start=1)
    ]


def pools(curves: Curves, box: Surrogate, *, count: int, size: int) -> list[list[Outcome]]:
    """Return the outcomes of uniformly drawn configurations, ``count`` times ``size`` of them."""
    space = curves.space
    draw = (
        box.evaluate(space.at(design_point("random", i, len(space.leaves), seed=99).tolist()))
        for i in range(count * size)
    )
    outcomes = list(draw)
    return [outcomes[i * size : (i + 1) * size] for i in range(count)]


def judge(pruner: Pruner, outcomes: Sequence[Outcome], full_budget: int) -> tuple[float, float]:
    """Return (share of the full epochs spent, share of the true front that was stopped)."""
    records: dict[int, list[RungRecord]] = {level: [] for level in pruner.levels}
    epochs = np.full(len(outcomes), full_budget)
    for i, outcome in enumerate(outcomes):
        for level in pruner.levels:
            newcomer = RungRecord(
                trial_id=str(i),
                epoch=level,
                cost=outcome.bytes,
                accuracy=float(outcome.accuracy[level - 1]),
            )
            decision = pruner.decide(records[level], newcomer)
            records[level].append(newcomer)
            if isinstance(decision, Stop):
                epochs[i] = level
                break
    points = [[outcome.bytes, outcome.accuracy[-1]] for outcome in outcomes]
    front = nondominated_mask(points)
    return float(epochs.mean() / full_budget), float((epochs[front] < full_budget).mean())


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rung_report", description=__doc__)
    parser.add_argument("--curves", type=Path, default=DEFAULT_CURVES, help="recording")
    parser.add_argument("--pools", type=int, default=8, help="pools of 250 configurations")
    args = parser.parse_args(arguments)
    try:
        curves = load_curves(args.curves)
    except UserError as error:
        sys.exit(str(error))
    print(f"{len(curves)} curves of {curves.epochs} epochs: rank correlation with the end")
    print(f"{'epoch':>6}{'all':>8}{'of a size':>12}")
    for epoch, overall, alike in correlations(curves):
        print(f"{epoch:6}{overall:8.2f}{alike:12.2f}")
    box = Surrogate(curves)
    print(f"black box on held-out configurations: {box.fidelity}")
    drawn = pools(curves, box, count=args.pools, size=250)
    print(f"{'rungs':>12}{'keep':>12}{'cost':>8}{'regret':>8}")
    for shares, keep in VARIANTS:
        pruner = create_pruner(
            "stratified",
            full_budget=curves.epochs,
            classes=curves.classes,
            options={"shares": shares, "keep": keep},
        )
        cost, regret = np.mean([judge(pruner, outcomes, curves.epochs) for outcomes in drawn], axis=0)
        levels, kept = "/".join(map(str, pruner.levels)), "/".join(f"{share:g}" for share in keep)
        print(f"{levels:>12}{kept:>12}{cost:8.2f}{regret:8.1%}")


if __name__ == "__main__":
    main()
