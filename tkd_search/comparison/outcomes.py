"""How one training on a fresh seed came out, put together from its job's results and kept in a file."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median_high
from typing import Any

from tkd_search.comparison.paired_statistics import Failure, Training
from tkd_search.errors import UserError
from tkd_search.results.records import TrialRecord

OWN_FAULTS = frozenset({"Diverged", "LinAlgError", "_LinAlgError"})
"""Errors of a training's own arithmetic, which its seed brings about again every time."""


def failure_of(error: UserError, label: str, seed: int, winner: TrialRecord) -> Failure | None:
    """A training that failed by its own arithmetic, None where the machine may be to blame.

    What a machine does (a full disk, memory, a network) is another matter next time and is not kept.

    Args:
        error: as :func:`~tkd_search.engine.pipeline.run_stage` raises it; it found ``<error>: <its words>``.
        label: whose training it was.
        seed: the fresh seed.
        winner: what was trained.
    """
    kind, _, _ = error.found.partition(":")
    if kind not in OWN_FAULTS:
        return None
    return Failure(
        label=label, seed=seed, failed=error.found, parameters=winner.parameters, bytes=winner.bytes
    )


def training_of(
    label: str, seed: int, winner: TrialRecord, results: Iterable[Mapping[str, Any]], test_accuracy: float
) -> Training:
    """The figures of a training from its job's results and its one test.

    A worker group that restarts tells its epochs again: of two tellings the later one led to the student.
    """
    told = {result["epoch"]: result for result in results if result["kind"] == "epoch"}
    epochs = [told[number] for number in sorted(told)]
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
    """How one training came out, as its file keeps it."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    if "failed" in plain:
        return Failure(**plain)
    return replace(Training(**plain), teachers=tuple(tuple(teacher) for teacher in plain["teachers"]))
