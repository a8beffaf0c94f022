"""Few labels and many unlabelled images, against the few labels alone and against all labels.

    python -m benchmarks.unlabelled --json FILE --data FOLDER [--big-model F.safetensors] [--labels 1000]

FOLDER holds CIFAR-10 as train/<class>/* and test/<class>/*; without --data the images are the digits. F, a
ResNet-18 or a --big-name of --big-width, is trained on the same images with all labels unless --big-model
gives its weights. Each student is taught three times by each method: by the --labels labelled images alone,
by them and all others without their labels, and by all images with all labels. The three have the same
initial weights and number of steps, that of --epochs of all images. One bank, of all images, serves all.
Figures are test accuracies; each is written to FILE as soon as it is known, and the same command goes on
after a stop.

Goal: at least 90 % of the way from 'alone' to 'all labels'.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.formats.training import Lesson, lesson, run, training_views
from benchmarks.lesson_options import lesson_parser, lesson_settings, open_figures
from tkd_search.data import DataSettings, load_data, plain_batches
from tkd_search.data.splits import limited
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings
from tkd_search.distill.interfaces import UNLABELLED
from tkd_search.distill.training.batch_order import steps_per_epoch, unlabelled_per_epoch
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.files import write_json
from tkd_search.models.model_settings import StudentSettings

METHODS = {
    "kd": MethodSettings(name="kd", lam=0.9, tau=2.0),
    "tkd": MethodSettings(lam=0.9, tau=2.0, activation="identity", stage_feature=12.0, relation=1.0),
}
STUDENTS = {
    "mobilenet_v2": StudentSettings(name="mobilenet_v2", width=0.25),
    "plain_cnn": StudentSettings(name="tkd_search.models.plain:plain_cnn"),
}
ALONE, UNLABELLED_TOO, ALL_LABELS = "alone", "unlabelled", "all labels"
GOAL = 0.9
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    settings, big, store = lesson_settings(options)
    settings = replace(
        settings, views=options.views, validation=0.04 if options.data else settings.validation
    )
    found = open_figures(
        options.json,
        {
            "data": asdict(settings),
            "big_model": [options.big_name, options.big_model, options.big_width, options.big_epochs],
            "student": options.student,
            "labels": options.labels,
            "ratio": options.ratio,
            "epochs": options.epochs,
        },
        {"figures": []},
    )
    missing = list(_missing(found["figures"], options))
    taught = _lesson(settings, big, store) if missing else None
    for seed, method, arm in missing:
        assert taught is not None
        row = _row(taught, method, arm, seed, options)
        found["figures"].append(row)
        write_json(options.json, found, indent=1)
        print(f"{method}, {arm}, seed {seed}: {row['accuracy']:.2%} after {row['steps']} steps", flush=True)
    _print(found["figures"])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = lesson_parser(__doc__, images=None, epochs=8, big_width=0.25)
    parser.add_argument("--labels", type=int, default=1000, help="labelled images, class-balanced")
    parser.add_argument(
        "--ratio", type=float, help="unlabelled images per labelled one; default: the setting's"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--student", default="mobilenet_v2", choices=list(STUDENTS))
    parser.add_argument("--views", type=int, default=4, help="fixed views of every image")
    return parser.parse_args(arguments)


def _lesson(settings: DataSettings, big: Any, store: Any) -> Lesson:
    return lesson(settings, load_data(settings), big, store, BankSettings(grid=4))


def _missing(figures: list[Row], options: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """Yield what has no figure yet, all of a seed before the next seed."""
    known = {(row["seed"], row["method"], row["arm"]) for row in figures}
    for seed in range(options.seeds):
        for method in options.methods:
            for arm in (ALONE, UNLABELLED_TOO, ALL_LABELS):
                if (seed, method, arm) not in known:
                    yield seed, method, arm


def _row(taught: Lesson, method: str, arm: str, seed: int, options: argparse.Namespace) -> Row:
    """Train one student and return its figures."""
    data, labels = taught.data, taught.data.train.labels
    if arm != ALL_LABELS:
        known = torch.zeros(len(labels), dtype=torch.bool)
        known[limited(labels, options.labels, seed)] = True
        labels = torch.where(known, labels, UNLABELLED)
    data = replace(data, train=replace(data.train, labels=labels))
    ratio = 0.0 if arm == ALONE else options.ratio
    images = int((labels != UNLABELLED).sum()) + unlabelled_per_epoch(labels, ratio)
    batch = TrainSettings().batch_size
    total = options.epochs * steps_per_epoch(len(labels), batch)
    epochs = max(1, round(total / steps_per_epoch(images, batch)))
    student = STUDENTS[options.student]
    if options.student == "plain_cnn":
        student = replace(student, args={"widths": [32, 64, 128], "in_channels": data.channels})
    distiller = Distiller(
        taught.student(student, seed),
        training_views(taught.settings, data, taught.bank.views),
        METHODS[method],
        TrainSettings(epochs=epochs, unlabelled_ratio=ratio),
        seed=seed,
        bank=taught.bank,
        class_count=data.num_classes,
    )
    accuracy = evaluate(run(distiller), plain_batches(data.test, mean=data.mean, std=data.std))
    return {"method": method, "arm": arm, "seed": seed, "steps": distiller.step, "accuracy": accuracy}


def _print(figures: list[Row]) -> None:
    for method in dict.fromkeys(row["method"] for row in figures):
        means = {}
        for arm in (ALONE, UNLABELLED_TOO, ALL_LABELS):
            found = [row["accuracy"] for row in figures if (row["method"], row["arm"]) == (method, arm)]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            means[arm] = statistics.fmean(found)
            print(f"{method}, {arm}: {means[arm]:.2%} ± {spread:.2%} ({len(found)} seeds)")
        way = means[ALL_LABELS] - means[ALONE]
        closed = (means[UNLABELLED_TOO] - means[ALONE]) / way if way else float("nan")
        kept = "kept" if closed >= GOAL else "MISSED"
        print(f"{method}: {closed:.0%} of the way of {100 * way:.1f} points, goal ≥ {GOAL:.0%}: {kept}")


if __name__ == "__main__":
    main()
