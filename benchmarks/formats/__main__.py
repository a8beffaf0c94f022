"""Accuracy, bytes and latency of students in every number format, and the cost of simulated rounding.

    python -m benchmarks.formats --json FILE [--data FOLDER] [--images 5000] [--epochs 30] [--seeds 3]

Three students are distilled by KD: MobileNetV2 ×.25, ResNet-18 ×.25, MobileNetV3-small ×.35. Without --data
the images are the digits; FOLDER holds CIFAR-10 as train/<class>/* and test/<class>/*. F, a ResNet-18 or a
--big-name of --big-width, is trained on the same images unless --big-model gives its weights. Each student
and seed is trained three times, with the same initial weights and batches: in fp32 (its files in fp32,
fp16, and int8 and int4 rounded after training), and for int8 and int4 with simulated rounding. Figures are
those of the files: accuracy on the test images under onnxruntime, bytes of model.safetensors and
model.onnx, median milliseconds for 1 and 32 images on one thread. A figure is written to FILE as soon as it
is known; the same command goes on after a stop.

Goals: int8 within .3 points of fp32, int4 within 1.5, a step with rounding ≤ 1.35 plain steps.
"""

import argparse
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.formats.figures import TRAINED, lost, rows, table
from benchmarks.formats.step_cost import step_costs
from benchmarks.formats.training import Lesson, lesson
from benchmarks.lesson_options import lesson_parser, lesson_settings, open_figures
from tkd_search.data import load_data, plain_batches
from tkd_search.distill import MethodSettings, TrainSettings
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.files import write_json
from tkd_search.models import model_bytes
from tkd_search.models.model_settings import StudentSettings

STUDENTS = {
    "mobilenet_v2 ×0.25": StudentSettings(name="mobilenet_v2", width=0.25),
    "resnet18 ×0.25": StudentSettings(name="resnet18", width=0.25),
    "mobilenet_v3_small ×0.35": StudentSettings(name="mobilenet_v3_small", width=0.35),
}
METHOD = MethodSettings(name="kd", lam=0.9, tau=2.0)
GOALS = {"int8": 0.3, "int4": 1.5}
"""Points of accuracy that training with rounding may lose."""
MOST_COST = 1.35


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    data, big, store = lesson_settings(options)
    train = TrainSettings(epochs=options.epochs)
    found = open_figures(
        options.json,
        {
            "data": asdict(data),
            "training": asdict(train),
            "big_model": [options.big_name, options.big_model, options.big_width, options.big_epochs],
        },
        {"big_model": {}, "figures": [], "steps": []},
    )
    taught = lesson(data, load_data(data), big, store)
    found["big_model"] = _figures_of(taught)
    _students(found, taught, train, options)
    _steps(found, taught, options)
    _print(found)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = lesson_parser(__doc__, images=5000, epochs=30, big_width=0.5)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--rounds", type=int, default=9, help="of the steps' cost")
    parser.add_argument("--batches", type=int, default=4, help="per round")
    return parser.parse_args(arguments)


def _figures_of(taught: Lesson) -> dict[str, Any]:
    data = taught.data
    accuracy = evaluate(taught.big_model, plain_batches(data.test, mean=data.mean, std=data.std))
    model: Any = taught.big_model
    return {"accuracy": accuracy, "bytes": model_bytes(model.model)}


def _students(
    found: dict[str, Any], taught: Lesson, train: TrainSettings, options: argparse.Namespace
) -> None:
    """Add the figures that are missing, all students of a seed before the next seed."""
    for seed in range(options.seeds):
        for name in options.students:
            for format, made in TRAINED.items():
                known = {
                    (row["format"], row["rounding"])
                    for row in found["figures"]
                    if (row["student"], row["seed"]) == (name, seed)
                }
                if known.issuperset(made):
                    continue
                added = rows(taught, STUDENTS[name], METHOD, train, format=format, seed=seed)
                found["figures"] += [{"student": name, **row} for row in added]
                write_json(options.json, found, indent=1)
                last = found["figures"][-1]
                print(f"{name} seed {seed}: {last['format']} {last['accuracy']:.2%}", flush=True)


def _steps(found: dict[str, Any], taught: Lesson, options: argparse.Namespace) -> None:
    """Add the costs of steps that are missing."""
    for name in options.students:
        if name not in [row["student"] for row in found["steps"]]:
            costs = step_costs(
                taught, STUDENTS[name], METHOD, batch=128, rounds=options.rounds, batches=options.batches
            )
            found["steps"] += [{"student": name, **cost} for cost in costs]
            write_json(options.json, found, indent=1)


def _print(found: dict[str, Any]) -> None:
    figures, steps = found["figures"], found["steps"]
    print(f"F: {found['big_model']['accuracy']:.2%} test, {found['big_model']['bytes']:,d} bytes")
    print(*table(figures), sep="\n")
    for name in dict.fromkeys(row["student"] for row in figures):
        for format, most in GOALS.items():
            points = -lost(figures, name, format, "trained")
            print(f"{name}, {format}: loses {points:.2f} points, goal ≤ {most:g}: {_kept(points <= most)}")
    for row in steps:
        print(
            f"{row['student']}, {row['format']}: a step with rounding takes {row['rounded_ms']:.1f} ms, "
            f"{row['ratio']:.2f} × one without, goal ≤ {MOST_COST:g}: {_kept(row['ratio'] <= MOST_COST)}"
        )


def _kept(kept: bool) -> str:
    return "kept" if kept else "MISSED"


if __name__ == "__main__":
    main()
