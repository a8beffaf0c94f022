"""The stages of one source, each in a process of its own: ``python -m benchmarks.large_set.stages JOB``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.data import AugmentedViews, DataBundle, DataSettings, fixed_views, load_data
from tkd_search.data.bank_files import load_bank, write_bank
from tkd_search.data.image_files import DecodedStore
from tkd_search.data.prepared_files import load_prepared, save_prepared
from tkd_search.data.scan_images import scan_images
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings
from tkd_search.distill.features.bank_builder import BankBuilder
from tkd_search.distill.interfaces import StudentOutput

BANK = BankSettings(grid=2, cells="stages", width=32)
METHOD = MethodSettings(name="tkd", stage_feature=12.0, relation=1.0, activation="identity")


class SmallNetwork(nn.Module):
    """A network that is quick beside decoding: it sees means of 8 × 8 pixels."""

    feature_width = 16

    def __init__(self, classes: int) -> None:
        super().__init__()
        first = nn.AvgPool2d(8), nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.body = nn.Sequential(*first, nn.MaxPool2d(4), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> StudentOutput:
        """Return the output for images [B, 3, H, W]."""
        maps = self.body(images)
        features = maps.mean((2, 3))
        return StudentOutput(self.head(features), features, maps)

    def classify(self, features: Tensor) -> Tensor:
        """Apply the last layer."""
        logits: Tensor = self.head(features)
        return logits


def decode(job: dict[str, Any]) -> dict[str, Any]:
    """Decode at most 8,192 of the files with all cores, and do nothing else."""
    settings = DataSettings(**job["data"])
    paths = sorted(str(path) for path in Path(settings.path or "").glob("*/*.jpg"))[:8192]
    scan_images(paths, settings.size or 0, 3, keep=False)
    return {"images": len(paths)}


def read(job: dict[str, Any]) -> dict[str, Any]:
    """Read, check and split the images, and store the set for workers."""
    data = load_data(DataSettings(**job["data"]))
    save_prepared(data, job["place"] + "/data")
    kept = "decoded" if isinstance(data.train.images, DecodedStore) else type(data.train.images).__name__
    return {"kept": kept, "images": sum(len(split) for split in data.splits().values())}


def bank(job: dict[str, Any]) -> dict[str, Any]:
    """Compute the bank of a small network."""
    data = load_prepared(job["place"] + "/data")
    torch.manual_seed(0)
    folder = Path(job["place"]) / "bank"
    folder.mkdir()
    with BankBuilder([SmallNetwork(data.num_classes)], _views(data, job), BANK) as builder:
        write_bank(builder, folder)
    return {"bytes": load_bank(folder).nbytes, "rows": len(load_bank(folder).logits)}


def epoch(job: dict[str, Any]) -> dict[str, Any]:
    """Train one epoch from the bank, and count the seconds of its batches."""
    data = load_prepared(job["place"] + "/data")
    train = TrainSettings(epochs=1, batch_size=128, schedule="one_cycle")
    made = Distiller(
        SmallNetwork(data.num_classes), _views(data, job), METHOD, train,
        seed=0, bank=load_bank(job["place"] + "/bank"), class_count=data.num_classes,
    )  # fmt: skip
    stats = made.run_epoch()
    assert stats is not None
    return {"images": len(data.train), "epoch_seconds": stats.seconds}


def _views(data: DataBundle, job: dict[str, Any]) -> AugmentedViews:
    views = fixed_views(DataSettings(**job["data"]))
    return AugmentedViews(data.train, mean=data.mean, std=data.std, views=views, augment="crop_flip")


def main() -> None:
    """Run the stage that the JSON on the command line names; print its figures as JSON."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    began = time.perf_counter()
    figures = {"decode": decode, "read": read, "bank": bank, "epoch": epoch}[job["stage"]](job)
    print(json.dumps({"seconds": time.perf_counter() - began, **figures}))


if __name__ == "__main__":
    main()
