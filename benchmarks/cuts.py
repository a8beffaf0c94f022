"""Students that start from F's channels against students that start at random, at equal bytes.

    python -m benchmarks.cuts --json FILE --data FOLDER --big-model F.safetensors [--ratios 0.1 0.25]

FOLDER holds CIFAR-10 as train/<class>/* and test/<class>/*; without --data the images are the digits. F is a
ResNet-18 of --big-width, trained on the same images unless --big-model gives its weights. For every ratio of
bytes and every seed, KD teaches four students of at most these bytes: cut from F by magnitude, cut at random
channels, the same form with random weights, and a MobileNetV2. Figures are test accuracies of the ONNX
files; each is written to FILE as soon as it is known, and the same command goes on after a stop.

Goal: at a tenth of F's bytes the cut by magnitude is 2 points better than random weights.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.formats.training import Lesson, lesson, run, training_views
from benchmarks.lesson_options import lesson_parser, lesson_settings, open_figures
from tkd_search.data import load_data, plain_batches
from tkd_search.distill import Distiller, MethodSettings, TrainSettings
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.export.shipping import write_files
from tkd_search.files import write_json
from tkd_search.formats import Format, shipped_bytes
from tkd_search.models import Student, build_student, cut_student, model_bytes
from tkd_search.models.model_settings import BigModelSettings, StudentSettings

STARTS = {
    "cut": StudentSettings(name="cut"),
    "random channels": StudentSettings(name="cut", importance="random"),
    "random weights": StudentSettings(name="cut"),
    "mobilenet_v2": StudentSettings(name="mobilenet_v2"),
}
METHOD = MethodSettings(name="kd", lam=0.9, tau=2.0)
GOAL = 2.0
"""Points that a cut by magnitude gains over random weights at a tenth of F's bytes."""
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    settings, big, store = lesson_settings(options)
    found = open_figures(
        options.json,
        {
            "data": asdict(settings),
            "big_model": [options.big_model, options.big_width, options.big_epochs],
            "epochs": options.epochs,
            "format": options.format,
        },
        {"figures": []},
    )
    taught = lesson(settings, load_data(settings), big, store)
    for seed, ratio, start in _missing(found, options):
        row = _row(taught, big, start, ratio, seed, options)
        found["figures"].append(row)
        write_json(options.json, found, indent=1)
        print(f"{start} at {ratio:g}, seed {seed}: {row['accuracy']:.2%}, {row['bytes']:,} bytes", flush=True)
    _print(found["figures"], options.starts)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = lesson_parser(__doc__, images=None, epochs=8, big_width=0.25)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.25], help="student's bytes ÷ F's")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--format", default="fp32", choices=["fp32", "fp16", "int8", "int4"])
    return parser.parse_args(arguments)


def _missing(found: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[int, float, str]]:
    """Yield what has no figure yet, all students of a seed before the next seed."""
    known = {(row["seed"], row["ratio"], row["start"]) for row in found["figures"]}
    for seed in range(options.seeds):
        for ratio in options.ratios:
            for start in options.starts:
                if (seed, ratio, start) not in known:
                    yield seed, ratio, start


def _row(
    taught: Lesson, big: BigModelSettings, start: str, ratio: float, seed: int, options: argparse.Namespace
) -> Row:
    """Train one student and return its figures."""
    student = _started(taught, big, start, ratio, seed, options.format)
    distiller = Distiller(
        student,
        training_views(taught.settings, taught.data, taught.bank.views),
        METHOD,
        TrainSettings(epochs=options.epochs),
        seed=seed,
        bank=taught.bank,
        class_count=taught.data.num_classes,
        format=options.format,
    )
    data = taught.data
    with tempfile.TemporaryDirectory() as folder:
        onnx = write_files(run(distiller).model, options.format, student.input_shape, Path(folder))
        accuracy = evaluate(onnx, plain_batches(data.test, mean=data.mean, std=data.std))
    size = shipped_bytes(student.model, options.format)
    return {"start": start, "ratio": ratio, "seed": seed, "bytes": size, "accuracy": accuracy}


def _started(
    taught: Lesson, big: BigModelSettings, start: str, ratio: float, seed: int, format: Format
) -> Student:
    """Return the widest student of this start within ``ratio`` of F's bytes, before its first step."""
    data, trained = taught.data, taught.big_model
    assert isinstance(trained, Student)
    build = partial(
        build_student, classes=data.num_classes, channels=data.channels, size=data.size, big_model=big
    )
    torch.manual_seed(seed)
    low, high = 0.01, 1.0
    for _ in range(9):
        width = (low * high) ** 0.5
        fits = shipped_bytes(build(_at(start, width)).model, format) <= ratio * model_bytes(trained.model)
        low, high = (width, high) if fits else (low, width)
    settings = _at(start, low)
    if start not in ("cut", "random channels"):
        return build(settings)
    student, _ = cut_student(
        settings,
        trained,
        big,
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        batches=plain_batches(data.train.evenly(2048), mean=data.mean, std=data.std, batch_size=128),
        seed=seed,
    )
    return student


def _at(start: str, width: float) -> StudentSettings:
    one = STARTS[start]
    return StudentSettings(name=one.name, importance=one.importance, width=width)


def _print(figures: list[Row], starts: list[str]) -> None:
    for ratio in sorted({row["ratio"] for row in figures}):
        means = {}
        for start in starts:
            found = [row["accuracy"] for row in figures if (row["ratio"], row["start"]) == (ratio, start)]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            means[start] = statistics.fmean(found)
            print(f"ratio {ratio:g}, {start}: {means[start]:.2%} ± {spread:.2%} ({len(found)} seeds)")
        if "cut" in means and "random weights" in means and ratio == 0.1:
            gain = 100 * (means["cut"] - means["random weights"])
            print(f"a cut gains {gain:.2f} points, goal ≥ {GOAL:g}: {'kept' if gain >= GOAL else 'MISSED'}")


if __name__ == "__main__":
    main()
