"""Fixed and fresh views, mixed images, augmentations and optimisers: what each gives and costs.

    python -m benchmarks.recipe --json FILE --data FOLDER --big-model F.safetensors
        [--images 1000 5000] [--epochs 240 60] [--recipes "4 views" fresh] [--methods kd tkd]

FOLDER holds CIFAR-10 as train/<class>/* and test/<class>/*; without --data the images are the digits. F, a
ResNet-18 or a --big-name of --big-width, is trained on the same images unless --big-model gives its
weights. For every number of images, seed, method and recipe one student learns for as many epochs as stand
at the same place. KD reads logits alone, so its bank has nothing else. Figures are validation and test
accuracy, seconds per epoch, and seconds and bytes of the bank; each is written to FILE as soon as it is
known, and the same command goes on after a stop.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.formats.training import big_model, run, training_views
from benchmarks.lesson_options import add_big_model, lesson_settings, open_figures
from tkd_search.data import DataBundle, load_data, plain_batches
from tkd_search.data.data_settings import DataSettings
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings, compute_bank
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.files import write_json
from tkd_search.models import Student, build_student
from tkd_search.models.model_settings import StudentSettings

METHODS = {
    "ce": MethodSettings(name="ce"),
    "kd": MethodSettings(name="kd", lam=0.9, tau=2.0),
    "tkd": MethodSettings(stage_feature=12.0, relation=1.0, activation="identity", gamma=0.0, beta=0.0),
}
_BANKS = {"ce": BankSettings(taps=()), "kd": BankSettings(taps=()), "tkd": BankSettings(grid=4)}
RECIPES: dict[str, dict[str, Any]] = {
    "4 views": {"views": 4},
    "32 views": {"views": 32},
    "fresh": {"views": 0},
    "fresh, mixup": {"views": 0, "mixup": 0.2},
    "fresh, cutmix": {"views": 0, "cutmix": 1.0},
    "fresh, resized crop": {"views": 0, "augment": "resized_crop"},
    "fresh, randaugment": {"views": 0, "randaugment": 2},
    "fresh, erasing": {"views": 0, "erasing": 0.25},
    "fresh, cosine": {"views": 0, "schedule": "cosine"},
    "fresh, cosine, ema": {"views": 0, "schedule": "cosine", "ema": 0.99},
    "fresh, clipped": {"views": 0, "clip_norm": 1.0},
    "fresh, sgd": {"views": 0, "schedule": "cosine", "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4},
}
"""Settings of data and of training that differ from the default ones."""
_OF_DATA = {"views", "augment", "randaugment", "erasing"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One student to train."""

    images: int
    epochs: int
    seed: int
    method: str
    recipe: str


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    found = open_figures(
        options.json,
        {
            "data": options.data,
            "big_model": [options.big_name, options.big_model, options.big_width],
            "width": options.width,
        },
        {"figures": []},
    )
    for case in _missing(found["figures"], options):
        row = _row(case, options)
        found["figures"].append(row)
        write_json(options.json, found, indent=1)
        where = f"{case.images} images, {case.epochs} epochs, seed {case.seed}, {case.method}, {case.recipe}"
        print(f"{where}: test {row['test']:.2%}, {row['epoch_seconds']:.1f} s an epoch", flush=True)
    _print(found["figures"])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="figures; read again where it exists")
    parser.add_argument("--data", help="folder of CIFAR-10; default: digits")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000], help="class-balanced")
    parser.add_argument("--epochs", type=int, nargs="+", default=[240, 60], help="one for each of --images")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--methods", nargs="+", default=["kd", "tkd"], choices=list(METHODS))
    parser.add_argument("--width", type=float, default=0.25, help="of a MobileNetV2")
    parser.add_argument("--seeds", type=int, default=3)
    add_big_model(parser, 0.25)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    return parser.parse_args(arguments)


def _missing(figures: list[Row], options: argparse.Namespace) -> Iterator[Case]:
    """Yield what has no figure yet, all recipes of a seed before the next seed."""
    known = [Case(**row["case"]) for row in figures]
    for seed in range(options.seeds):
        for images, epochs in zip(options.images, options.epochs, strict=True):
            for method in options.methods:
                for recipe in options.recipes:
                    case = Case(images, epochs, seed, method, recipe)
                    # KD alone can afford a bank of 32 views.
                    if case not in known and (method == "kd" or recipe != "32 views"):
                        yield case


def _row(case: Case, options: argparse.Namespace) -> Row:
    """Train one student and return its figures."""
    recipe = RECIPES[case.recipe]
    options = argparse.Namespace(**{**vars(options), "images": case.images})
    settings, big, store = lesson_settings(options)
    settings = replace(settings, limit_seed=case.seed)
    data = _read(settings)
    # F learns from all images; the limit is that of the students.
    of_big_model = data if big.weights else load_data(replace(settings, train_limit=None))
    model = big_model(settings, of_big_model, big, store)
    settings = replace(settings, **{key: recipe[key] for key in _OF_DATA & recipe.keys()})
    began = time.perf_counter()
    views = training_views(settings, data, settings.views)
    bank = _bank(model, case.method, views) if settings.views else None
    bank_seconds = time.perf_counter() - began
    torch.manual_seed(case.seed)
    student = build_student(
        StudentSettings(name="mobilenet_v2", width=options.width),
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
    )
    of_training = {key: value for key, value in recipe.items() if key not in _OF_DATA}
    distiller = Distiller(
        student,
        views,
        METHODS[case.method],
        TrainSettings(epochs=case.epochs, **of_training),
        seed=case.seed,
        bank=bank,
        big_models=[model],
        class_count=data.num_classes,
    )
    began = time.perf_counter()
    trained = run(distiller)
    seconds = time.perf_counter() - began
    return {
        "case": asdict(case),
        **_accuracies(trained, data),
        "epoch_seconds": seconds / case.epochs,
        "bank_seconds": bank_seconds,
        "bank_bytes": 0 if bank is None else bank.nbytes,
    }


@lru_cache(maxsize=1)
def _read(settings: DataSettings) -> DataBundle:
    return load_data(settings)


def _bank(model: Student, method: str, views: Any) -> Bank:
    return compute_bank([model], views, _BANKS[method])


def _accuracies(student: Student, data: DataBundle) -> dict[str, float]:
    parts = {"validation": data.validation, "test": data.test}
    return {
        name: evaluate(student, plain_batches(part, mean=data.mean, std=data.std))
        for name, part in parts.items()
    }


def _print(figures: list[Row]) -> None:
    """Print test accuracies by images, method and recipe."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in figures:
        case = Case(**row["case"])
        groups.setdefault((case.images, case.epochs, case.method, case.recipe), []).append(row)
    print("| images | epochs | method | recipe | test | seconds per epoch | bank |")
    print("|--:|--:|---|---|--:|--:|--:|")
    for (images, epochs, method, recipe), rows in groups.items():
        test = [100 * row["test"] for row in rows]
        spread = f" ± {statistics.stdev(test):.1f}" if len(test) > 1 else ""
        seconds = statistics.median(row["epoch_seconds"] for row in rows)
        mean = f"{statistics.fmean(test):.1f}{spread}"
        size = f"{rows[0]['bank_bytes'] / 1e6:.1f} MB"
        print(f"| {images} | {epochs} | {method} | {recipe} | {mean} | {seconds:.1f} | {size} |")


if __name__ == "__main__":
    main()
