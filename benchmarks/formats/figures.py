"""Figures of one student in every number format, and tables of many."""

import copy
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.formats.training import Lesson, distilled
from tkd_search.data import plain_batches
from tkd_search.distill import MethodSettings, TrainSettings
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.export.onnx_file import latency_ms
from tkd_search.export.shipping import calibrated, write_files
from tkd_search.formats import FORMATS, Format
from tkd_search.models.model_settings import StudentSettings

Row = dict[str, Any]
TRAINED: Mapping[Format, tuple[tuple[Format, str], ...]] = {
    "fp32": tuple((format, "after" if format in ("int8", "int4") else "none") for format in FORMATS),
    "int8": (("int8", "trained"),),
    "int4": (("int4", "trained"),),
}
"""The format that a student is trained for → the files made of it, each with how it was rounded."""


def rows(
    taught: Lesson,
    student: StudentSettings,
    method: MethodSettings,
    train: TrainSettings,
    *,
    format: Format,
    seed: int,
) -> Iterator[Row]:
    """Train a student for a format and yield the figures of the files made of it (``TRAINED``)."""
    network = distilled(taught, student, method, train, format=format, seed=seed)
    for made, rounding in TRAINED[format]:
        ready = network
        if rounding != "trained":
            ready = calibrated(copy.deepcopy(network), made, taught.calibration())
        yield {"format": made, "rounding": rounding, "seed": seed, **_measured(ready, made, taught)}


def _measured(network: nn.Module, format: Format, taught: Lesson) -> Row:
    """Return test accuracy under onnxruntime, bytes and latency of a network's files."""
    data = taught.data
    with tempfile.TemporaryDirectory() as folder:
        onnx = write_files(network, format, (data.channels, data.size, data.size), Path(folder))
        accuracy = evaluate(onnx, plain_batches(data.test, mean=data.mean, std=data.std))
        example = torch.zeros(1, data.channels, data.size, data.size)
        return {
            "accuracy": accuracy,
            "bytes": (Path(folder) / "model.safetensors").stat().st_size,
            "onnx_bytes": onnx.path.stat().st_size,
            "latency_ms": {str(size): ms for size, ms in latency_ms(onnx, example).items()},
        }


def table(figures: Sequence[Row]) -> list[str]:
    """Return the figures as lines: a line per student, format and way of rounding, means over seeds.

    ``points`` is the mean difference of accuracy to the same student and seed in fp32, in points.
    """
    lines = [
        f"{'student':24s} {'format':6s} {'rounding':8s} {'accuracy':>16s} {'points':>7s} {'bytes':>9s} "
        f"{'onnx':>9s} {'ms, 1':>7s} {'ms, 32':>7s}"
    ]
    for (student, format, rounding), found in _grouped(figures).items():
        accuracies = [row["accuracy"] for row in found]
        spread = statistics.stdev(accuracies) if len(found) > 1 else 0.0
        one, many = (statistics.median(row["latency_ms"][size] for row in found) for size in ("1", "32"))
        lines.append(
            f"{student:24s} {format:6s} {rounding:8s} {statistics.mean(accuracies):8.2%} ± {spread:5.2%} "
            f"{lost(figures, student, format, rounding):+7.2f} {found[0]['bytes']:9,d} "
            f"{found[0]['onnx_bytes']:9,d} {one:7.3f} {many:7.2f}"
        )
    return lines


def lost(figures: Sequence[Row], student: str, format: str, rounding: str) -> float:
    """Return the mean of accuracy − that of fp32 with the same seed, in points; NaN without such pairs."""
    groups = _grouped(figures)
    whole = {row["seed"]: row["accuracy"] for row in groups.get((student, "fp32", "none"), [])}
    found = groups.get((student, format, rounding), [])
    pairs = [row["accuracy"] - whole[row["seed"]] for row in found if row["seed"] in whole]
    return 100 * statistics.mean(pairs) if pairs else float("nan")


def _grouped(figures: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in figures:
        groups.setdefault((row["student"], row["format"], row["rounding"]), []).append(row)
    students = list(dict.fromkeys(row["student"] for row in figures))
    return dict(
        sorted(groups.items(), key=lambda item: (students.index(item[0][0]), FORMATS.index(item[0][1])))
    )
