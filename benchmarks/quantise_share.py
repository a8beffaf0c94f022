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
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.formats.training import Lesson, distilled, lesson
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data, plain_batches
from tkd_search.distill import MethodSettings, TrainSettings
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.export.shipping import write_files
from tkd_search.formats import Format
from tkd_search.models.model_settings import StudentSettings

SHARES = (0.0, 0.1, 0.25, 0.5)
FORMATS: tuple[Format, ...] = ("int8", "int4")


def accuracy(taught: Lesson, format: Format, share: float, seed: int) -> float:
    """Train one student and return the validation accuracy of its ONNX file."""
    args = {"stride_order": [1, 3, 0, 2, 4], "dropout": 0.0, "round_nearest": 4}
    settings = StudentSettings(width=0.2, depth=0.5, args=args, format=format)
    train = TrainSettings(epochs=12, batch_size=96, lr=0.015, quantise=share)
    method, data = MethodSettings(name="kd", lam=0.8), taught.data
    network = distilled(taught, settings, method, train, format=format, seed=seed)
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
    settings, figures = load_config(None).settings(), {}
    big = replace(settings.big_models[0], epochs=20, batch_size=64, lr=0.002)
    taught = lesson(settings.data, load_data(settings.data), big)
    for format in FORMATS:
        for share in SHARES:
            found = [accuracy(taught, format, share, seed) for seed in range(options.seeds)]
            figures[f"{format} {share:g}"] = found
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            print(f"{format}  quantise {share:<4g}  {statistics.mean(found):.2%} ± {spread:.2%}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
