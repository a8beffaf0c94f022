"""An upper estimate of the hypervolume that a sampler can reach on a recording.

    python -m benchmarks.oracle [--curves FILE] [--seeds 5] [--pruner never] [--json FILE]

The oracle has every configuration's mean curve and the distribution of its noise, and chooses among thousands
of configurations the one with the largest expected gain in hypervolume. Its measurements are as noisy as
those of other searchers. It is not a strict bound, because it plans only one trial ahead.
"""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.search_efficiency import DEFAULT_CURVES, SLOTS
from benchmarks.simulator.curves import Curves, load_curves
from benchmarks.simulator.replay import Replay, simulate
from benchmarks.simulator.searchers import Searcher
from benchmarks.simulator.sizes import exact_sizes
from benchmarks.simulator.surrogate import Surrogate
from tkd_search.optimize.pareto import nondominated_mask, unit_square
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.samplers.hypervolume_gain import area_gain
from tkd_search.optimize.space_encoding import Cube
from tkd_search.optimize.study import SearchStudy

Array = NDArray[np.float64]
SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)
DRAWN, CHILDREN = 6000, 3000
"""Configurations that the oracle considers: drawn at first, and per later generation."""
_GENERATIONS, _STRATA, _PARENTS = 3, 12, 12


class Oracle:
    """Chooses configurations from the black box's means and noise distribution.

    Args:
        curves: the recording.
        black_box: fitted on it.
        seed: seed of the considered configurations: drawn uniformly, then three generations of small changes
            to the best means of every size.
    """

    def __init__(self, curves: Curves, black_box: Surrogate, seed: int) -> None:
        self._curves, self._black_box, self._cube = curves, black_box, Cube(curves.space)
        rng = np.random.default_rng([seed, 11])
        points = rng.random((DRAWN, self._cube.dimensions))
        self.configs: list[dict[str, Any]] = []
        sizes, means = self._consider(points)
        for _ in range(_GENERATIONS):
            strata = np.array_split(np.argsort(sizes), _STRATA)
            best = np.concatenate([s[np.argsort(-means[s])[:_PARENTS]] for s in strata])
            parents = points[rng.choice(best, CHILDREN)]
            moved = np.clip(parents + 0.15 * rng.standard_normal(parents.shape), 0, 1)
            children = np.where(rng.random(parents.shape) < 0.25, moved, parents)
            more_sizes, more_means = self._consider(children)
            points = np.vstack([points, children])
            sizes, means = np.append(sizes, more_sizes), np.append(means, more_means)
        ends = black_box.possible_ends(means)
        square = self._square(np.repeat(sizes, ends.shape[1]), ends.ravel())
        self._sizes, self._heights = square[:: ends.shape[1], 0], square[:, 1].reshape(ends.shape)
        self._untried = np.ones(len(means), dtype=bool)

    def choose(self, study: SearchStudy, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Return the untried configuration with the largest expected gain over the whole trials so far."""
        done = study.trials("complete")
        front = np.empty((0, 2))
        if done:
            seen = self._square(
                np.array([float(t.cost or 1) for t in done]), np.array([t.accuracy for t in done])
            )
            front = np.unique(seen[nondominated_mask(seen)], axis=0)
        gain = area_gain(front, self._sizes, self._heights).mean(axis=1)
        chosen = int(np.where(self._untried, gain, -1.0).argmax())
        self._untried[chosen] = False
        return dict(self.configs[chosen])

    def _consider(self, points: Array) -> tuple[Array, Array]:
        """Add the configurations at these points, and return their bytes and mean final accuracies."""
        configs = [self._cube.decode(point) for point in points]
        self.configs += configs
        sizes = np.array([float(self._black_box.size_of(config)) for config in configs])
        return sizes, self._black_box.mean_curves(configs)[:, -1]

    def _square(self, sizes: Array, accuracies: Array) -> Array:
        curves = self._curves
        return unit_square(sizes, accuracies, scale=curves.scale, classes=curves.classes)


def run_oracle(
    curves: Curves, black_box: Surrogate, *, seed: int, pruner: str, options: Mapping[str, Any], trials: int
) -> Replay:
    """Run one search by an oracle, with the epochs of ``trials`` whole trials."""
    oracle = Oracle(curves, black_box, seed)
    studies: list[SearchStudy] = []
    searcher = Searcher(
        name="oracle", proposer=ProposerSettings(sampler="random"), pruner=pruner, pruner_options=options
    )
    study = searcher.open(
        curves, seed, lambda proposal: oracle.choose(studies[0], proposal), black_box.size_of
    )
    studies.append(study)
    return simulate(
        study,
        black_box,
        full_budget=curves.epochs,
        classes=curves.classes,
        scale=curves.scale,
        slots=SLOTS,
        max_epochs=trials * curves.epochs,
        seed=seed,
    )


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=__doc__)
    parser.add_argument("--curves", type=Path, default=DEFAULT_CURVES, help="recording to replay")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200, help="the budget, in whole trials")
    parser.add_argument("--pruner", default="never", help="pruner: never, stratified, front_probability, …")
    parser.add_argument("--pruner-args", type=json.loads, default={}, help="its arguments as JSON")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(arguments)
    curves = load_curves(args.curves)
    black_box = Surrogate(curves, size_of=exact_sizes(curves))
    run = partial(
        run_oracle, curves, black_box, pruner=args.pruner, options=args.pruner_args, trials=args.trials
    )
    with threadpool_limits(1):
        replays = [run(seed=seed) for seed in range(args.seeds)]
    volumes = [[replay.at(share * args.trials * curves.epochs) for share in SHARES] for replay in replays]
    medians = np.median(volumes, axis=0).tolist()
    for share, median in zip(SHARES, medians, strict=True):
        print(f"{share:4.0%} of the epochs: hypervolume {median:.4f} (median of {args.seeds})")
    print(f"{np.median([replay.trials for replay in replays]):.0f} trials")
    if args.json:
        args.json.write_text(json.dumps({"shares": SHARES, "hypervolume": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
