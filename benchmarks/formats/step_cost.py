"""What simulated rounding adds to a training step."""

import math
import statistics
import time
from typing import Any

from benchmarks.formats.training import Lesson, training_views
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings, compute_bank
from tkd_search.formats import Format
from tkd_search.models.model_settings import StudentSettings

QUANTISE = 0.9
"""The largest share of epochs that train with rounding."""

ROUNDED: tuple[Format, ...] = ("int8", "int4")


def step_costs(
    taught: Lesson, student: StudentSettings, method: MethodSettings, *, batch: int, rounds: int, batches: int
) -> list[dict[str, Any]]:
    """Return milliseconds per step without and with simulated rounding, and their ratio, per format.

    The trainings take turns, ``batches`` steps a round. CPU time of this process; ``ratio`` is that of the
    medians over the last ``rounds``.
    """
    images = min(batch * batches, len(taught.data.train))
    views = training_views(taught.settings, taught.data, 1, images=images)
    bank = compute_bank([taught.big_model], views, BankSettings())
    # Enough epochs that the last .9 of them, which round, are those that count and one more.
    epochs = math.ceil((rounds + 1) / QUANTISE) + 1
    train = TrainSettings(
        epochs=epochs, batch_size=min(batch, images), schedule="constant", quantise=QUANTISE
    )
    trainings = {
        format: Distiller(
            taught.student(student, 0),
            views,
            method,
            train,
            seed=0,
            bank=bank,
            class_count=taught.data.num_classes,
            format=format,
        )
        for format in ("fp32", *ROUNDED)
    }
    found: dict[str, list[float]] = {format: [] for format in trainings}
    for _ in range(epochs):
        for format, training in trainings.items():
            start = time.process_time()
            training.run_epoch()
            found[format].append((time.process_time() - start) / training.steps_per_epoch * 1000)
    plain, *rounded = (statistics.median(values[-rounds:]) for values in found.values())
    return [
        {"format": format, "plain_ms": plain, "rounded_ms": cost, "ratio": cost / plain}
        for format, cost in zip(ROUNDED, rounded, strict=True)
    ]
