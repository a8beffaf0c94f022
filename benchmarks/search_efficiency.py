"""Efficiency of searchers: hypervolume against epochs, on recorded learning curves.

    python -m benchmarks.search_efficiency [--curves FILE] [--json FILE] [--plot FILE]

Every searcher has the epochs of ``--trials`` whole trials and runs 8 trials at a time on the same black
box, fitted on the recording (its quality on held-out configurations is printed first). Medians and
quartiles over seeds. About 10 minutes on 2 cores with the defaults.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.simulator import moasha
from benchmarks.simulator.curves import Curves, load_curves
from benchmarks.simulator.replay import Replay, simulate
from benchmarks.simulator.searchers import SEARCHERS
from benchmarks.simulator.sizes import exact_sizes
from benchmarks.simulator.surrogate import BlackBox, Surrogate, Table
from tkd_search.errors import UserError

DEFAULT_CURVES = Path(__file__).parent / "curves" / "digits" / "curves.csv.gz"
SLOTS = 8
_GRID = 120


@dataclass(frozen=True)
class Summary:
    """Results of one searcher over all seeds.

    Attributes:
        name: of the searcher.
        hypervolume: [seeds, grid] at evenly spaced epochs up to the budget.
        replays: one per seed.
    """

    name: str
    hypervolume: NDArray[np.float64]
    replays: tuple[Replay, ...]

    @property
    def final(self) -> float:
        """Median hypervolume at the end of the budget."""
        return float(np.median(self.hypervolume[:, -1]))

    @property
    def regret_stops(self) -> float:
        """Stopped members of the full-information fronts, ÷ the size of these fronts, mean over seeds."""
        return float(np.mean([replay.regret_stops for replay in self.replays]))

    @property
    def lost(self) -> float:
        """Hypervolume lost to stopping, median over seeds."""
        return float(np.median([replay.lost_hypervolume for replay in self.replays]))


def compare(
    curves: Curves,
    black_box: BlackBox,
    *,
    names: Sequence[str],
    seeds: int,
    trials: int,
    workers: int = 1,
    first_seed: int = 0,
) -> dict[str, Summary]:
    """Run searchers on a black box, each with the epochs of ``trials`` whole trials.

    Args:
        curves: the recording (space, budget, big model).
        black_box: what training shows.
        names: keys of ``SEARCHERS``.
        seeds: number of seeds.
        trials: the budget, in whole trials.
        workers: processes.
        first_seed: the lowest of the seeds.
    """
    budget = trials * curves.epochs
    numbers = range(first_seed, first_seed + seeds)
    tasks = [(name, seed) for seed in numbers for name in names]
    run = partial(_run, curves, black_box, budget)
    if workers > 1:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            replays = pool.map(run, tasks, chunksize=1)
    else:
        replays = [run(task) for task in tasks]
    grid = np.linspace(budget / _GRID, budget, _GRID)
    done = dict(zip(tasks, replays, strict=True))
    return {name: _summarise(name, [done[name, seed] for seed in numbers], grid) for name in names}


def _run(curves: Curves, black_box: BlackBox, budget: int, task: tuple[str, int]) -> Replay:
    name, seed = task
    draw = black_box.drawing() if isinstance(black_box, Table) else None
    # A student's bytes are known before it is trained; its accuracy is not.
    size_of = black_box.size_of if isinstance(black_box, Surrogate) else None
    with threadpool_limits(1):  # a thread per process: small matrices gain nothing from more
        return simulate(
            SEARCHERS[name]().open(curves, seed, draw, size_of),
            black_box,
            full_budget=curves.epochs,
            classes=curves.classes,
            scale=curves.scale,
            slots=SLOTS,
            max_epochs=budget,
            seed=seed,
        )


def _summarise(name: str, replays: Sequence[Replay], grid: NDArray[np.float64]) -> Summary:
    volumes = np.array([[replay.at(epochs) for epochs in grid] for replay in replays])
    return Summary(name, volumes, tuple(replays))


def epochs_ratio(ours: Summary, tpe: Summary) -> float:
    """Return the share of the budget after which our median reaches the final one of TPE; inf if never."""
    median = np.median(ours.hypervolume, axis=0)
    reached = np.flatnonzero(median >= tpe.final)
    return float((reached[0] + 1) / len(median)) if reached.size else math.inf


def to_json(
    summaries: Mapping[str, Summary], seeds: int, trials: int, curves: Curves, first_seed: int = 0
) -> dict[str, Any]:
    """Return the figures that the documentation quotes."""
    ratio = epochs_ratio(summaries["ours"], summaries["tpe"])
    return {
        "epochs_ratio_to_tpe": ratio if math.isfinite(ratio) else None,
        "final_hypervolume": {name: summary.final for name, summary in summaries.items()},
        "regret_stops": summaries["ours"].regret_stops,
        "seeds": seeds,
        "first_seed": first_seed,
        "trials": trials,
        "epochs": trials * curves.epochs,
        "hypervolume_lost": {name: summary.lost for name, summary in summaries.items()},
        "regret_stops_by_searcher": {name: s.regret_stops for name, s in summaries.items()},
    }


def table(summaries: Mapping[str, Summary]) -> str:
    """Return a row per searcher: hypervolume at shares of the budget, and the cost of stopping."""
    shares = (1 / 6, 1 / 3, 2 / 3, 1.0)
    head = "".join(f"{f'{share:.0%} of epochs':>16}" for share in shares)
    lines = [f"{'hypervolume, median':22}{head}{'quartiles':>16}{'trials':>8}{'regret':>8}{'lost':>8}"]
    for name, summary in summaries.items():
        columns = [round(share * _GRID) - 1 for share in shares]
        medians = "".join(f"{np.median(summary.hypervolume[:, c]):16.4f}" for c in columns)
        low, high = np.quantile(summary.hypervolume[:, -1], [0.25, 0.75])
        trials = np.median([replay.trials for replay in summary.replays])
        lines.append(
            f"{name:22}{medians}{f'{low:.4f}–{high:.4f}':>16}{trials:8.0f}"
            f"{summary.regret_stops:8.1%}{summary.lost:8.4f}"
        )
    return "\n".join(lines)


def plot(summaries: Mapping[str, Summary], epochs: int, path: Path) -> None:
    """Plot median and quartiles of the hypervolume against epochs spent."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    grid = np.linspace(epochs / _GRID, epochs, _GRID)
    for name, summary in summaries.items():
        low, median, high = np.quantile(summary.hypervolume, [0.25, 0.5, 0.75], axis=0)
        (line,) = axes.plot(grid, median, label=name, linewidth=2.5 if name == "ours" else 1.5)
        axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    finals = [summary.final for summary in summaries.values()]
    axes.set_ylim(min(finals) - 0.06, max(finals) + 0.01)
    axes.set_xlabel("epochs spent by all trials")
    axes.set_ylabel("hypervolume, median and quartiles")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, compare, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_efficiency", description=__doc__)
    parser.add_argument("--curves", type=Path, default=DEFAULT_CURVES, help="recording to replay")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write a picture here (.png, .svg)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="0 to 19 and 30 to 49 served to choose; 20 is fresh"
    )
    parser.add_argument("--trials", type=int, default=200, help="the budget, in whole trials")
    parser.add_argument("--exact-table", action="store_true", help="draw recorded rows alone, no regressor")
    parser.add_argument(
        "--noise", type=float, default=1.0, help="scale of the recording's luck: a figure of its own below 1"
    )
    parser.add_argument("--searchers", nargs="+", choices=list(SEARCHERS), default=list(SEARCHERS))
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    args = parser.parse_args(arguments)
    try:
        curves = load_curves(args.curves)
    except UserError as error:
        sys.exit(str(error))
    names = _available(args.searchers)
    print(f"{len(curves)} recorded curves of {curves.epochs} epochs ({curves.left_out} left out)")
    black_box = _black_box(curves, args.exact_table, args.noise)
    summaries = compare(
        curves,
        black_box,
        names=names,
        seeds=args.seeds,
        trials=args.trials,
        workers=args.workers,
        first_seed=args.first_seed,
    )
    print(table(summaries))
    if {"ours", "tpe"} <= set(names):
        figures = to_json(summaries, args.seeds, args.trials, curves, args.first_seed)
        ratio = figures["epochs_ratio_to_tpe"]
        reached = "never" if ratio is None else f"after {ratio:.2f} of its epochs"
        print(f"ours reaches the final hypervolume of full-budget TPE {reached}")
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.plot:
        plot(summaries, args.trials * curves.epochs, args.plot)


def _black_box(curves: Curves, exact_table: bool, noise: float) -> BlackBox:
    if exact_table:
        print("black box: recorded rows alone, each proposal its nearest row that was not drawn yet")
        return Table(curves)
    surrogate = Surrogate(curves, noise=noise, size_of=exact_sizes(curves))
    print(f"black box on held-out configurations: {surrogate.fidelity}")
    return surrogate


def _available(names: Sequence[str]) -> list[str]:
    if "moasha" in names and not moasha.installed():
        print("moasha is left out: syne-tune is not installed (pip install syne-tune)")
        return [name for name in names if name != "moasha"]
    return list(names)


if __name__ == "__main__":
    main()
