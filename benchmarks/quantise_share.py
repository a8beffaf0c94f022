"""Validation accuracy of the exported file by ``training.quantise``: how long to train with rounding.

    python -m benchmarks.quantise_share [--seeds 3] [--json FILE]

Digits, F = AlexNet ×.35 (20 epochs). Students: MobileNetV2 ×.2 with half the blocks, taught by KD for 12
epochs, as in ``configs/digits.yaml``; the same seeds for every share. 0 rounds after training. Six minutes
on two cores.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import cast

import torch

from tkd_search.config.experiment_file import load_config
from tkd_search.data import (
    AugmentedViews,
    DataBundle,
    fixed_views,
    load_data,
    plain_batches,
    resolved_augmentation,
)
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings, compute_bank
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.export.shipping import write_files
from tkd_search.formats import Format
from tkd_search.models import Student, build_big_model, build_student
from tkd_search.models.model_settings import StudentSettings

SHARES = (0.0, 0.1, 0.25, 0.5)
FORMATS: tuple[Format, ...] = ("int8", "int4")


def views_of(data: DataBundle, views: int) -> AugmentedViews:
    """Return the training images in fixed views; 0 draws afresh."""
    augment = resolved_augmentation(load_config(None).settings().data)
    return AugmentedViews(
        data.train, mean=data.mean, std=data.std, views=views, augment=augment, seed=0, device="cpu"
    )


def make_bank(data: DataBundle) -> Bank:
    """Train F and return its bank."""
    settings = load_config(None).settings()
    torch.manual_seed(0)
    model = build_big_model(settings.big_models[0], classes=data.num_classes, channels=1, size=data.size)
    train = TrainSettings(epochs=20, batch_size=64, lr=0.002, schedule="one_cycle")
    distiller = Distiller(
        model, views_of(data, 0), MethodSettings(name="ce"), train, seed=0, class_count=data.num_classes
    )
    while distiller.epoch < train.epochs:
        distiller.run_epoch()
    return compute_bank(
        [distiller.eval_student()], views_of(data, fixed_views(settings.data)), BankSettings()
    )


def accuracy(data: DataBundle, bank: Bank, format: Format, share: float, seed: int) -> float:
    """Train one student and return the validation accuracy of its ONNX file."""
    args = {"stride_order": [1, 3, 0, 2, 4], "dropout": 0.0, "round_nearest": 4}
    settings = StudentSettings(width=0.2, depth=0.5, args=args, format=format)
    torch.manual_seed(seed)
    student = build_student(settings, classes=data.num_classes, channels=1, size=data.size)
    train = TrainSettings(epochs=12, batch_size=96, lr=0.015, quantise=share)
    distiller = Distiller(
        student,
        views_of(data, bank.views),
        MethodSettings(name="kd", lam=0.8),
        train,
        seed=seed,
        bank=bank,
        class_count=data.num_classes,
        format=format,
    )
    while distiller.epoch < train.epochs:
        distiller.run_epoch()
    network = cast(Student, distiller.eval_student()).model
    with tempfile.TemporaryDirectory() as folder:
        onnx = write_files(network, format, (1, data.size, data.size), Path(folder))
    return evaluate(onnx, plain_batches(data.validation, mean=data.mean, std=data.std))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(load_config(None).settings().data)
    bank, figures = make_bank(data), {}
    for format in FORMATS:
        for share in SHARES:
            found = [accuracy(data, bank, format, share, seed) for seed in range(options.seeds)]
            figures[f"{format} {share:g}"] = found
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            print(f"{format}  quantise {share:<4g}  {statistics.mean(found):.2%} ± {spread:.2%}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
