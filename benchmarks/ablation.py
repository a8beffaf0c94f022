"""What each part of a small student gives at equal bytes: its start, number format, teaching and network.

    python -m benchmarks.ablation --json FILE --config FILE [--set KEY=VALUE]... [--contestants NAME...]

The *student* is the experiment's first starting point (``search.enqueue``), a cut of F. Every other
contestant differs from it in one thing and is the widest that has at most its bytes. All learn from the same
bank, for the experiment's epochs. *Chain* is what a user would put together from libraries: the same cut and
KD in fp32, then onnxruntime's static quantisation to int8; its ``bytes`` are those of that ONNX file. Figures
are test accuracies of the ONNX files; each is written to FILE as soon as it is known, and the same command
goes on after a stop. F is trained first where ``big_model.weights`` names no file.

Goal: a cut is 2 points better than the same form with random weights.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.formats.by_onnxruntime import quantise
from benchmarks.formats.training import Lesson, calibration_images, lesson, run, training_views, untrained
from benchmarks.lesson_options import open_figures
from tkd_search.config.experiment_file import Config, load_config, with_overrides
from tkd_search.config.resolve import bank_settings
from tkd_search.config.sections import Settings
from tkd_search.data import load_data, plain_batches
from tkd_search.data.networks import student_for
from tkd_search.distill import Distiller
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.export.onnx_file import ONNX_FILE, OnnxNetwork
from tkd_search.export.shipping import write_files
from tkd_search.export.student_description import WEIGHTS_FILE
from tkd_search.files import write_json
from tkd_search.formats import Format, shipped_bytes
from tkd_search.models import Student, model_bytes

CONTESTANTS: dict[str, dict[str, Any]] = {
    "student": {},
    "random channels": {"student.importance": "random"},
    "random weights": {},
    "mobilenet_v2": {"student.name": "mobilenet_v2"},
    "fp32": {"student.format": "fp32"},
    "int8": {"student.format": "int8"},
    "chain": {"student.format": "int8"},
    "plain training": {"method.name": "ce"},
    "plain training, random weights": {"method.name": "ce"},
}
"""Leaves of the experiment that differ from the student's."""
GOAL = 2.0
"""Points that a cut gains over random weights."""
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    config = load_config(options.config, options.set)
    config = config.fixed(next(iter(config.enqueued()), {}))
    found = open_figures(options.json, {"experiment": config.digest()}, {"figures": []})
    taught, base = _lesson(config, options.json.with_suffix(".big_model.safetensors"))
    limit = shipped_bytes(_architecture(taught, base).model, base.student.format)
    found["big_model"] = {
        "bytes": model_bytes(taught.big_model),
        "accuracy": _accuracy(taught, taught.big_model),
    }
    for seed, name in _missing(found["figures"], options):
        changed = with_overrides(config, CONTESTANTS[name]).settings()
        settings = _widest(taught, replace(changed, big_models=base.big_models), limit)
        began = time.monotonic()
        row = {"contestant": name, "seed": seed, "width": settings.student.width}
        row |= _figures(taught, name, settings, seed)
        found["figures"].append(row | {"seconds": time.monotonic() - began})
        write_json(options.json, found, indent=1)
        print(f"{name}, seed {seed}: {row['accuracy']:.2%}, {row['bytes']:,} bytes", flush=True)
    _print(found)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="figures; read again where it exists")
    parser.add_argument("--config", required=True, help="experiment whose first starting point is a cut")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes to it")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    return parser.parse_args(arguments)


def _lesson(config: Config, store: Path) -> tuple[Lesson, Settings]:
    """Return what all learn from, and the student's settings, whose F has the weights of the lesson's."""
    settings = config.settings()
    big = settings.big_models[0]
    if big.weights is None and store.exists():
        big = replace(big, weights=str(store))
    made = lesson(settings.data, load_data(settings.data), big, store, bank_settings(config))
    return made, replace(settings, big_models=(big,))


def _missing(figures: list[Row], options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Yield what has no figure yet, all contestants of a seed before the next seed."""
    known = {(row["seed"], row["contestant"]) for row in figures}
    for seed in range(options.seeds):
        yield from ((seed, name) for name in options.contestants if (seed, name) not in known)


def _architecture(taught: Lesson, settings: Settings, seed: int = 0) -> Student:
    """Return a student with random weights, also where it is a cut."""
    torch.manual_seed(seed)
    return student_for(settings.student, settings.big_models[0], taught.data)


def _widest(taught: Lesson, settings: Settings, limit: int) -> Settings:
    """Return the settings with the greatest width whose student has at most ``limit`` bytes."""

    def at(width: float) -> Settings:
        return replace(settings, student=replace(settings.student, width=width))

    low, high = 0.01, 1.0
    for _ in range(12):
        width = (low * high) ** 0.5
        fits = shipped_bytes(_architecture(taught, at(width)).model, settings.student.format) <= limit
        low, high = (width, high) if fits else (low, width)
    return at(low)


def _figures(taught: Lesson, name: str, settings: Settings, seed: int) -> Row:
    """Train one contestant and return bytes and test accuracy of its files."""
    # The chain rounds after training; its width is that of an int8 student.
    format: Format = "fp32" if name == "chain" else settings.student.format
    if name.endswith("random weights"):
        student = _architecture(taught, settings, seed)
    else:
        student = untrained(settings, taught.big_model, taught.data, seed)
    distiller = Distiller(
        student,
        training_views(taught.settings, taught.data, taught.bank.views),
        settings.method,
        settings.training,
        seed=seed,
        bank=taught.bank,
        class_count=taught.data.num_classes,
        format=format,
    )
    trained = run(distiller)
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        network = write_files(trained.model, format, trained.input_shape, folder)
        shipped = folder / WEIGHTS_FILE
        if name == "chain":
            shipped = folder / "quantised.onnx"
            quantise(folder / ONNX_FILE, shipped, calibration_images(taught.settings, taught.data))
            network = OnnxNetwork(shipped)
        return {"bytes": shipped.stat().st_size, "accuracy": _accuracy(taught, network)}


def _accuracy(taught: Lesson, network: Any) -> float:
    data = taught.data
    return evaluate(network, plain_batches(data.test, mean=data.mean, std=data.std))


def _print(found: dict[str, Any]) -> None:
    big, means = found["big_model"], {}
    for name in dict.fromkeys(row["contestant"] for row in found["figures"]):
        rows = [row for row in found["figures"] if row["contestant"] == name]
        accuracies = [row["accuracy"] for row in rows]
        means[name] = statistics.fmean(accuracies)
        spread = statistics.stdev(accuracies) if len(rows) > 1 else 0.0
        ratio = rows[0]["bytes"] / big["bytes"]
        retention = means[name] / big["accuracy"]
        print(
            f"{name} ×{rows[0]['width']:.3f}: ratio {ratio:.4f}, {means[name]:.2%} ± {spread:.2%}, "
            f"retention {retention:.3f} ({len(rows)} seeds)"
        )
    if {"student", "random weights"} <= means.keys():
        gain = 100 * (means["student"] - means["random weights"])
        print(f"the cut gains {gain:.2f} points, goal ≥ {GOAL:g}: {'kept' if gain >= GOAL else 'MISSED'}")


if __name__ == "__main__":
    main()
