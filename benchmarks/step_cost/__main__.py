"""Measures what teaching costs: a plain step, TKD steps from the bank, and steps that run the big model live.

    python -m benchmarks.step_cost [--json FILE] [--device cuda] [--rounds 9]
                                   [--torchdistill FOLDER] [--ddp]

All trainings run the same MobileNetV2 (width .25, 32×32, batch 128) side by side: each round trains a few
batches of every one in turn, and medians of the rounds' ratios are compared, so that a busy machine slows all
alike. On a CPU it is one thread and CPU time that count; on a GPU wall time.

``--torchdistill`` adds torchdistill's KD and attention transfer, installed by pip into FOLDER alone
(``torchdistill_steps``); ``--ddp`` adds two workers of ours beside two torchrun processes (``two_workers``).

Goals: ``GOALS``. The plain command needs neither Ray nor MLflow nor Optuna nor a network, and about two
minutes on one core.
"""

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.step_cost.one_process import measure, one_process_steps
from benchmarks.step_cost.torchdistill_steps import install, torchdistill_steps
from benchmarks.step_cost.two_workers import measure_two_workers
from tkd_search.distill import TrainSettings
from tkd_search.models.model_settings import StudentSettings

Found = Mapping[str, list[float]]
"""Milliseconds per batch by training, one figure per round."""


class Goal(NamedTuple):
    """A bound on the ratio of two trainings' steps; with infinite and zero bounds it is reported only."""

    key: str
    step: str
    other: str
    least: float = 0.0
    most: float = math.inf

    def ratio(self, found: Found) -> float:
        """Return the median of the rounds' ratios."""
        pairs = zip(found[self.step], found[self.other], strict=True)
        return statistics.median(step / other for step, other in pairs)

    def verdict(self, ratio: float) -> str:
        """Return the bound and whether the ratio keeps it."""
        if self.least == 0 and self.most == math.inf:
            return "no goal"
        bound = f"≥ {self.least}" if self.least else f"≤ {self.most}"
        return f"goal {bound}: {'met' if self.least <= ratio <= self.most else 'MISSED'}"


GOALS = (
    Goal("tkd_over_ce", "tkd, bank", "ce", most=1.25),
    Goal("tkd_over_live", "tkd, bank", "tkd, live big model", most=0.5),
    Goal("tkd_stages_over_ce", "tkd with stages and relation, bank", "ce", most=1.25),
    Goal("torchdistill_kd_over_ours", "kd, torchdistill", "kd, bank", least=3),
    Goal("torchdistill_channels_last_over_ours", "kd in channels_last, torchdistill", "kd, bank"),
    Goal("torchdistill_at_over_ours", "at, torchdistill", "at, bank"),
    Goal("ddp_over_torchrun", "ce, 2 workers", "ce, torchrun", most=1.05),
)


def summary(found: Found, batch: int) -> dict[str, dict[str, float]]:
    """Median milliseconds, images per second and the median of per-round ratios to plain training."""
    told = {}
    for name, values in found.items():
        middle = statistics.median(values)
        ratios = [a / b for a, b in zip(values, found["ce"], strict=True)]
        told[name] = {
            "ms": middle,
            "images_per_second": batch / middle * 1000,
            "ratio_to_ce": statistics.median(ratios),
            "spread": (max(ratios) - min(ratios)) / 2,
        }
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=4, help="batches per round and training")
    parser.add_argument("--student", default="mobilenet_v2", help="name of the student, or its import path")
    parser.add_argument("--width", type=float, default=0.25, help="width of the student")
    parser.add_argument("--args", type=json.loads, default={}, help="its arguments as JSON")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--torchdistill", type=Path, metavar="FOLDER", help="also measure torchdistill")
    parser.add_argument("--ddp", action="store_true", help="also measure two workers, on the CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    student = StudentSettings(name=options.student, width=options.width, args=options.args)
    train = TrainSettings(
        epochs=1000, batch_size=options.batch, schedule="constant", precision=options.precision
    )
    what = (options.device, options.batches, student, train)
    counts = {"rounds": options.rounds, "batches": options.batches}
    with contextlib.ExitStack() as stack:
        steps = one_process_steps(*what)
        if options.torchdistill:
            install(options.torchdistill)
            steps |= stack.enter_context(torchdistill_steps(options.torchdistill, *what))
        found = measure(steps, **counts)
    told = summary(found, options.batch)
    print(f"{'step':42s} {'ms':>8s} {'images/s':>9s} {'× ce':>6s}")
    for name, row in told.items():
        print(f"{name:42s} {row['ms']:8.1f} {row['images_per_second']:9.0f} {row['ratio_to_ce']:6.2f}")
    workers = measure_two_workers(**counts, settings=student, train=train) if options.ddp else {}
    for name, values in workers.items():
        print(f"{name:42s} {statistics.median(values):8.1f} (wall time)")
    found |= workers
    ratios = {goal.key: goal.ratio(found) for goal in GOALS if goal.step in found}
    for goal in GOALS:
        if goal.key in ratios:
            ratio = ratios[goal.key]
            print(f"{goal.key}: {ratio:.2f} ({goal.step} / {goal.other}; {goal.verdict(ratio)})")
    if options.json:
        facts = {"torch": torch.__version__, "device": options.device, "width": options.width}
        settings = {"batch": options.batch, "precision": options.precision}
        walls = {name: statistics.median(values) for name, values in workers.items()}
        figures = {**facts, **settings, **ratios, "steps": told, "two_workers_ms": walls}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
