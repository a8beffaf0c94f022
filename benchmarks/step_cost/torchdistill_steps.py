"""Training steps of torchdistill 1.1.5, in a process of its own that answers requests for a few batches.

The process trains the networks of ``one_process`` on the same images, through ``DistillationBox``, as in
torchdistill's image classification example: a data loader of single images (in the training process, without
workers), forward hooks, KDLoss alone or with ATLoss, AdamW at the same rate. Ours computes in channels_last;
torchdistill leaves the memory format to the user, so its KD is measured in the default and in this format.
"""

import contextlib
import multiprocessing as mp
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, RandomSampler

from benchmarks.step_cost.one_process import CHANNELS, CLASSES, SIZE, NoiseViews, clock, timed
from tkd_search.distill import TrainSettings
from tkd_search.models import build_big_model, build_student
from tkd_search.models.model_settings import BigModelSettings, StudentSettings

VERSION = "1.1.5"
TRAININGS = ("kd", "kd in channels_last", "at")
OUTPUT = "."
"""torchdistill's path of a whole model."""


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Single images [C, H, W] with labels, as torchdistill's data loader takes them."""

    def __init__(self, views: NoiseViews) -> None:
        self._images, self._labels = views.images.cpu().contiguous(), views.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._images[index], self._labels[index]


def install(folder: Path) -> None:
    """Install torchdistill into ``folder`` if it is not there.

    Its dependencies are tkd_search's too, so torch stays the same, and other environments do not change.
    """
    if not (folder / "torchdistill").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, f"torchdistill=={VERSION}"], check=True)


@contextlib.contextmanager
def torchdistill_steps(
    folder: Path, device: str, batches: int, settings: StudentSettings, train: TrainSettings
) -> Iterator[dict[str, Callable[[], float]]]:
    """Start the process with torchdistill from ``folder`` and yield its steps."""
    context = mp.get_context("spawn")
    near, far = context.Pipe()
    arguments = (far, str(folder), device, batches, settings, train)
    process = context.Process(target=_answer, args=arguments, daemon=True)
    process.start()
    far.close()

    def ask(name: str) -> float:
        near.send(name)
        return float(near.recv())

    try:
        yield {f"{name}, torchdistill": partial(ask, name) for name in TRAININGS}
    finally:
        near.close()
        process.join()


def _answer(
    requests: Connection,
    folder: str,
    device: str,
    batches: int,
    settings: StudentSettings,
    train: TrainSettings,
) -> None:
    """Train a few batches for each name received and send the seconds; return when the parent closes."""
    torch.set_num_threads(1)
    sys.path.insert(0, folder)
    now = clock(device)
    views = NoiseViews(batches * train.batch_size, 1, "cpu")
    steps = {
        name: timed(partial(_epoch, _box(name, views, device, settings, train)), now) for name in TRAININGS
    }
    with contextlib.suppress(EOFError):
        while True:
            requests.send(steps[requests.recv()]())


def _box(name: str, views: NoiseViews, device: str, settings: StudentSettings, train: TrainSettings) -> Any:
    """Return torchdistill's DistillationBox for one of ``TRAININGS``."""
    from torchdistill.core.distillation import get_distillation_box

    torch.manual_seed(0)
    student: Any = build_student(settings, classes=CLASSES, channels=CHANNELS, size=SIZE)
    big: Any = build_big_model(BigModelSettings(), classes=CLASSES, channels=CHANNELS, size=SIZE).eval()
    if "channels_last" in name:
        student, big = (network.to(memory_format=torch.channels_last) for network in (student, big))
    ends = {"student_module_path": OUTPUT, "teacher_module_path": OUTPUT}
    kinds = {"student_module_io": "output", "teacher_module_io": "output"}
    kd = {"key": "KDLoss", "kwargs": {**ends, **kinds, "temperature": 4.0, "alpha": 0.5}}
    terms = {"kd": {"criterion": kd, "weight": 1.0}}
    maps = {"student": student.roles.maps, "teacher": "features"}
    if name == "at":
        pair = {who: {"io": "output", "path": path} for who, path in maps.items()}
        terms["at"] = {"criterion": {"key": "ATLoss", "kwargs": {"at_pairs": {"last": pair}}}, "weight": 1.0}
    forward = {"forward_proc": "forward_batch_only"}
    hooks = {who: {"output": [path] if name == "at" else []} for who, path in maps.items()}
    config = {
        "num_epochs": train.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": train.batch_size},
        },
        "teacher": {**forward, "forward_hook": hooks["teacher"], "requires_grad": False},
        "student": {**forward, "forward_hook": hooks["student"]},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": train.lr}},
    }
    where = torch.device(device)
    return get_distillation_box(
        big.model, student.model, {"train": Images(views)}, config, where, [], False, 1
    )


def _epoch(box: Any) -> None:
    """Train one epoch, like ``train_one_epoch`` of torchdistill's example without its log."""
    box.pre_epoch_process(epoch=0)
    for images, labels, extra in box.train_data_loader:
        loss = box.forward_process(images.to(box.device), labels.to(box.device), extra)
        box.post_forward_process(loss=loss)
    box.post_epoch_process()
