"""What teaching costs: a plain step, a TKD step from the bank, and steps that run the big model live.

    python -m benchmarks.step_cost [--json FILE] [--device cuda] [--rounds 9]

All trainings run the same MobileNetV2 (width .25, 32×32, batch 128) in the same loop, side by side:
each round trains a few batches of every one in turn, and medians over rounds are compared, so that a busy
machine slows all alike. On a CPU it is one thread and CPU time that count; on a GPU wall time.

Promise: TKD from the bank ≤ 1.25 × plain training, and ≥ 2 × faster than with the big model live.
Needs neither Ray nor MLflow nor Optuna. About two minutes on one core.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings, compute_bank
from tkd_search.models import build_big_model, build_student
from tkd_search.models.model_settings import BigModelSettings, StudentSettings

CLASSES, CHANNELS, SIZE = 10, 3, 32
FULL = {"local": 4.0, "relation": 0.5, "big_model_term": "dist"}
STAGES = {"stage_feature": 12.0, "relation": 1.0, "activation": "identity"}
METHODS: dict[str, tuple[dict[str, object], bool]] = {
    "ce": ({"name": "ce"}, False),
    "kd, bank": ({"name": "kd"}, False),
    "tkd, bank": ({"name": "tkd"}, False),
    "tkd with local, relation and DIST, bank": ({"name": "tkd", **FULL}, False),
    "tkd with stages and relation, bank": ({"name": "tkd", **STAGES}, False),
    "kd, live big model": ({"name": "kd"}, True),
    "tkd, live big model": ({"name": "tkd"}, True),
}
PROMISES = (("tkd, bank", "ce", 1.25), ("tkd, bank", "tkd, live big model", 0.5))


class NoiseViews:
    """Random images, made once: what they show does not change what a step costs."""

    def __init__(self, number: int, views: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.views = views
        images = torch.randn(number, CHANNELS, SIZE, SIZE, generator=generator)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (number,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        """The images of ``index``; every view is the image itself."""
        return self.images[index.to(self.images.device)]


def clock(device: str) -> Callable[[], float]:
    """Seconds: CPU time of this process, or wall time once the GPU has caught up."""
    if device == "cpu":
        return time.process_time

    def gpu() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return gpu


def trainings(
    device: str, batches: int, settings: StudentSettings, train: TrainSettings
) -> dict[str, Distiller]:
    """One training per method, all of the same student on the same images."""
    models: list[nn.Module] = [
        build_big_model(BigModelSettings(), classes=CLASSES, channels=CHANNELS, size=SIZE)
    ]
    views = {live: NoiseViews(batches * train.batch_size, 0 if live else 1, device) for live in (False, True)}
    cells = BankSettings(grid=4)
    banks = {live: compute_bank(models, source, cells, device=device) for live, source in views.items()}
    made = {}
    for name, (method, live) in METHODS.items():
        torch.manual_seed(0)
        student = build_student(settings, classes=CLASSES, channels=CHANNELS, size=SIZE)
        made[name] = Distiller(
            student,
            views[live],
            MethodSettings(reselect_every=1.0, warmup=0.0, **method),  # type: ignore[arg-type]
            train,
            seed=0,
            bank=banks[live],
            big_models=models if live else (),
            device=device,
            class_count=CLASSES,
        )
    return made


def measure(
    device: str, *, rounds: int, batches: int, student: StudentSettings, train: TrainSettings
) -> dict[str, list[float]]:
    """Milliseconds per batch of every training, one figure per round; a first round is thrown away."""
    now = clock(device)
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    made = trainings(device, batches, student, train)
    for _ in range(rounds + 1):
        for name, training in made.items():
            start = now()
            training.run_epoch()
            found[name].append((now() - start) / batches * 1000)
    return {name: values[1:] for name, values in found.items()}


def summary(found: dict[str, list[float]], batch: int) -> dict[str, dict[str, float]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=4, help="batches per round and training")
    parser.add_argument("--student", default="mobilenet_v2", help="name of the student, or its import path")
    parser.add_argument("--width", type=float, default=0.25, help="width of the student")
    parser.add_argument("--args", type=json.loads, default={}, help="its arguments as JSON")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = StudentSettings(name=options.student, width=options.width, args=options.args)
    train = TrainSettings(
        epochs=1000, batch_size=options.batch, schedule="constant", precision=options.precision
    )
    found = measure(
        options.device, rounds=options.rounds, batches=options.batches, student=student, train=train
    )
    told = summary(found, options.batch)
    print(f"{'step':42s} {'ms':>8s} {'images/s':>9s} {'× ce':>6s}")
    for name, row in told.items():
        print(f"{name:42s} {row['ms']:8.1f} {row['images_per_second']:9.0f} {row['ratio_to_ce']:6.2f}")
    for name, other, most in PROMISES:
        ratio = told[name]["ms"] / told[other]["ms"]
        print(f"{name} / {other}: {ratio:.2f} (promised ≤ {most}: {'kept' if ratio <= most else 'NOT kept'})")
    if options.json:
        facts = {"torch": torch.__version__, "device": options.device, "width": options.width}
        options.json.write_text(
            json.dumps(
                {**facts, "batch": options.batch, "precision": options.precision, "steps": told}, indent=1
            )
        )


if __name__ == "__main__":
    main()
