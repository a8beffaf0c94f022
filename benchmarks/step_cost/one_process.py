"""Training steps of every method in this process, and the loop that measures steps side by side."""

import time
from collections.abc import Callable, Mapping

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
    "at, bank": ({"name": "at"}, False),
    "tkd, bank": ({"name": "tkd"}, False),
    "tkd with local, relation and DIST, bank": ({"name": "tkd", **FULL}, False),
    "tkd with stages and relation, bank": ({"name": "tkd", **STAGES}, False),
    "kd, live big model": ({"name": "kd"}, True),
    "tkd, live big model": ({"name": "tkd"}, True),
}

Steps = Mapping[str, Callable[[], float]]
"""Trainings by name; each trains a few batches and returns its seconds."""


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


def one_process_steps(
    device: str, batches: int, settings: StudentSettings, train: TrainSettings
) -> dict[str, Callable[[], float]]:
    """Return the steps of every method in ``METHODS``, by CPU time (wall time on a GPU)."""
    now = clock(device)
    made = trainings(device, batches, settings, train)
    return {name: timed(training.run_epoch, now) for name, training in made.items()}


def timed(run: Callable[[], object], now: Callable[[], float]) -> Callable[[], float]:
    """Return a function that calls ``run`` and returns its seconds."""

    def seconds() -> float:
        start = now()
        run()
        return now() - start

    return seconds


def measure(steps: Steps, *, rounds: int, batches: int) -> dict[str, list[float]]:
    """Return milliseconds per batch of every training, one figure per round.

    Each round runs every training in turn; a first round is discarded.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, run in steps.items():
            found[name].append(run() / batches * 1000)
    return {name: values[1:] for name, values in found.items()}
