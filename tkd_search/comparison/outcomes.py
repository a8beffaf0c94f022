"""The outcome of one training on a fresh seed: built from the results of its job, kept in a file."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median_high
from typing import Any

from tkd_search.comparison.paired_statistics import Failure, Training
from tkd_search.errors import UserError
from tkd_search.results.records import TrialRecord

NUMERICAL_ERRORS = frozenset({"Diverged", "LinAlgError", "_LinAlgError"})
"""Numerical errors of a training, which occur again with the same seed."""


def failure_of(error: UserError, label: str, seed: int, winner: TrialRecord) -> Failure | None:
    """Return a training that failed numerically, None for an error of the machine.

    An error of the machine (disk, memory, network) may not occur again and is not kept.

    Args:
        error: as :func:`~tkd_search.engine.pipeline.run_stage` raises it; ``found`` is ``<type>: <message>``.
        label: the contestant.
        seed: the fresh seed.
        winner: the trial that was trained again.
    """
    kind, _, _ = error.found.partition(":")
    if kind not in NUMERICAL_ERRORS:
        return None
    return Failure(
        label=label, seed=seed, failed=error.found, parameters=winner.parameters, bytes=winner.bytes
    )


def training_of(
    label: str, seed: int, winner: TrialRecord, results: Iterable[Mapping[str, Any]], test_accuracy: float
) -> Training:
    """Return the figures of a training from the results of its job and its one test.

    A worker group that restarts repeats epochs; the later result of an epoch belongs to the student.
    """
    by_number = {result["epoch"]: result for result in results if result["kind"] == "epoch"}
    epochs = [by_number[number] for number in sorted(by_number)]
    return Training(
        label=label,
        seed=seed,
        val_accuracy=epochs[-1]["val_accuracy"],
        test_accuracy=test_accuracy,
        seconds_per_epoch=median_high([epoch["metrics"]["seconds"] for epoch in epochs]),
        parameters=winner.parameters,
        bytes=winner.bytes,
        teachers=tuple(teacher for epoch in epochs for teacher in _teachers(epoch)),
    )


def _teachers(epoch: Mapping[str, Any]) -> list[tuple[int, str, float, float]]:
    metrics = epoch["metrics"]
    names = [key.removeprefix("weight.") for key in metrics if key.startswith("weight.")]
    return [
        (epoch["epoch"], name, metrics[f"weight.{name}"], metrics.get(f"agreement.{name}", float("nan")))
        for name in names
    ]


def read_training(file: Path) -> Training | Failure:
    """Read the outcome of one training from its file."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    if "failed" in plain:
        return Failure(**plain)
    return replace(Training(**plain), teachers=tuple(tuple(teacher) for teacher in plain["teachers"]))
