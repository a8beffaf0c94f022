"""Cost of the search's own work at scale: 10,000 simulated trials in 256 slots.

    python -m benchmarks.scale [--trials 10000] [--slots 256] [--json FILE] [--journal FILE] [--sampler NAME]

Training is replaced by an artificial learning curve that takes no time, so that all time is the search's. It
reports milliseconds of a decision (pruner and bookkeeping, storage included) and of a suggestion, at the
beginning and at the end, and the memory used. About 5 minutes with the quasi-random sampler.
"""

import argparse
import json
import resource
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulator.replay import Running, Simulation
from benchmarks.simulator.surrogate import Outcome
from benchmarks.simulator.synthetic import BIG_MODEL_BYTES, SPACE
from tkd_search.optimize.pareto import CostScale
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import rung_levels
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.study import SearchStudy

FULL_BUDGET = 9
CLASSES = 10


@dataclass(frozen=True)
class Figures:
    """Medians and 95th percentiles in milliseconds, over the first and the last tenth of the calls.

    ``decide_*``: a report at a rung, with pruner, bookkeeping and storage. ``ask_*``: a suggestion.
    ``memory_mb_per_1000_trials`` is the growth of the resident set over the second half.
    """

    trials: int
    slots: int
    sampler: str
    decide_first: float
    decide_last: float
    decide_last_p95: float
    ask_first: float
    ask_last: float
    ask_last_p95: float
    memory_mb: float
    memory_mb_per_1000_trials: float
    journal_mb: float


class Invented:
    """An artificial curve, computed from the configuration."""

    def evaluate(self, config: Mapping[str, Any]) -> Outcome:
        """Return a curve that is better with size and near one learning rate."""
        width, rate = config["student.width"], np.log10(config["training.lr"] / 8e-3)
        end = 0.95 - 0.1 / width**0.5 * 0.3 - 0.1 * rate**2
        steps = np.arange(1, FULL_BUDGET + 1) / FULL_BUDGET
        accuracy = np.clip(0.1 + (end - 0.1) * steps**0.5, 0.0, 1.0)
        return Outcome(int(2e6 * width**2) + 20_000, accuracy)


def measure(
    *, trials: int, slots: int, sampler: str, journal: Path | None, pruner: str = "front_probability"
) -> Figures:
    """Run the search and time its parts.

    Args:
        trials: trials in all.
        slots: trials at once.
        sampler: as in a real search; its history is capped.
        journal: durable storage; memory alone where None.
        pruner: name of the pruner.
    """
    study = SearchStudy.open(
        "scale",
        journal,
        space=SPACE,
        full_budget=FULL_BUDGET,
        pruner=create_pruner(pruner, full_budget=FULL_BUDGET, classes=CLASSES),
        proposer=ProposerSettings(sampler=sampler),
        scale=CostScale(BIG_MODEL_BYTES),
        classes=CLASSES,
    )
    memory: list[tuple[int, float]] = []
    simulation = _Watched(study, trials, slots, memory)
    simulation.run()
    half = next(mb for done, mb in memory if done >= trials // 2)
    growth = (memory[-1][1] - half) / (trials / 2) * 1000
    decide, ask = simulation.rung_seconds, simulation.ask_seconds
    return Figures(
        trials=len(simulation.outcomes),
        slots=slots,
        sampler=sampler,
        decide_first=_median(_first(decide)),
        decide_last=_median(_last(decide)),
        decide_last_p95=float(np.quantile(_last(decide), 0.95) * 1e3),
        ask_first=_median(_first(ask)),
        ask_last=_median(_last(ask)),
        ask_last_p95=float(np.quantile(_last(ask), 0.95) * 1e3),
        memory_mb=memory[-1][1],
        memory_mb_per_1000_trials=growth,
        journal_mb=journal.stat().st_size / 2**20 if journal else 0.0,
    )


class _Watched(Simulation):
    """A simulation that records the resident memory every hundred trials."""

    def __init__(self, study: SearchStudy, trials: int, slots: int, memory: list[tuple[int, float]]) -> None:
        super().__init__(
            study,
            Invented(),
            full_budget=FULL_BUDGET,
            slots=slots,
            max_epochs=None,
            max_trials=trials,
            seed=0,
        )
        self._memory = memory
        self._levels = rung_levels(FULL_BUDGET)
        self.rung_seconds: list[float] = []

    def _epoch(self, running: Running) -> bool:
        goes_on = super()._epoch(running)
        if running.epoch in self._levels:
            self.rung_seconds.append(self.decide_seconds[-1])
        return goes_on

    def _begin(self, now: float) -> bool:
        if len(self.outcomes) % 100 == 0:
            self._memory.append((len(self.outcomes), _resident_mb()))
        return super()._begin(now)


def _resident_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS")
        )
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _first(seconds: Sequence[float]) -> Sequence[float]:
    return seconds[: max(1, len(seconds) // 10)]


def _last(seconds: Sequence[float]) -> Sequence[float]:
    return seconds[-max(1, len(seconds) // 10) :]


def _median(seconds: Sequence[float]) -> float:
    return float(np.median(seconds) * 1e3)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--sampler", default="qmc", help="qmc times the bookkeeping alone; ehvi, tpe, …")
    parser.add_argument(
        "--pruner", default="front_probability", help="pruner: front_probability, stratified, …"
    )
    parser.add_argument(
        "--journal", type=Path, help="keep the study's journal here; default: a temporary one"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(
            trials=args.trials,
            slots=args.slots,
            sampler=args.sampler,
            journal=args.journal or Path(folder) / "study.journal",
            pruner=args.pruner,
        )
    print(
        f"{figures.trials} trials in {figures.slots} slots, sampler {figures.sampler}, pruner {args.pruner}\n"
        f"decision at a rung (pruner, bookkeeping, journal): {figures.decide_first:.2f} ms at first, "
        f"{figures.decide_last:.2f} ms at the end (95 %: {figures.decide_last_p95:.2f} ms)\n"
        f"suggestion: {figures.ask_first:.1f} ms at first, {figures.ask_last:.1f} ms at the end "
        f"(95 %: {figures.ask_last_p95:.1f} ms)\n"
        f"memory: {figures.memory_mb:.0f} MB, {figures.memory_mb_per_1000_trials:.1f} MB more "
        f"per 1,000 trials; journal {figures.journal_mb:.1f} MB"
    )
    if args.json:
        args.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
