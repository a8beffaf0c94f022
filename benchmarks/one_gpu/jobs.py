"""What a process of the benchmark does: train F, or one student, from where it was stopped."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import Any, Literal

import torch

from tkd_search.comparison.paired_statistics import Training
from tkd_search.data import AugmentedViews, DataBundle, Split, plain_batches
from tkd_search.data.bank_files import load_bank, save_bank
from tkd_search.data.prepared_files import load_prepared
from tkd_search.distill import BankSettings, Distiller, MethodSettings, TrainSettings, compute_bank, evaluate
from tkd_search.engine.jobs.checkpoint import TrialCheckpoint
from tkd_search.engine.run_dir.checkpoint_files import remove_checkpoints
from tkd_search.models import Student, build_big_model, build_student, model_bytes, model_parameters
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.weights import load_weights, save_weights
from tkd_search.seeds import child_seed

Candidate = Mapping[str, Any]

_KD = {"name": "kd", "lam": 0.9, "tau": 2.0}
_TKD = {
    "name": "tkd", "lam": 0.9, "tau": 2.0, "gamma": 0.4, "k": 3, "relation": 1.0, "stage_feature": 12.0,
    "activation": "identity", "beta": 0.0, "r": 0.0,
}  # fmt: skip
_ARTICLE = {**_TKD, "stage_feature": 0.0, "relation": 0.0, "activation": "swish", "r": 0.1}
_NO_TEACHERS = {**_TKD, "gamma": 0.0, "stage_feature": 0.0}

CONTESTANTS: Mapping[str, tuple[Candidate, ...]] = {
    "ce": ({"name": "ce"}, {"name": "ce", "train.lr": 2.0}, {"name": "ce", "train.lr": 0.5}),
    "kd": (_KD, {**_KD, "tau": 4.0}, {**_KD, "train.lr": 2.0}),
    "tkd": (_TKD, {**_TKD, "stage_feature": 3.0}, {**_TKD, "train.lr": 2.0}),
    "no-teachers": (_NO_TEACHERS, {**_NO_TEACHERS, "tau": 4.0}, {**_NO_TEACHERS, "train.lr": 2.0}),
    # The article as it stands: generated teachers of the output alone, swish with θ0 = 1, frozen or not.
    "article-k1": ({**_ARTICLE, "k": 1},),
    "article-k10": ({**_ARTICLE, "k": 10},),
    "article-k10-frozen": ({**_ARTICLE, "k": 10, "theta_frozen": True},),
}  # fmt: skip
"""Candidates of every contestant, the first one the starting point; ``train.lr`` is a factor."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all trainings of one command have in common.

    Attributes:
        out: folder of F, checkpoints and results.
        big: F's name.
        big_width: its channel multiplier.
        big_epochs: its epochs.
        big_lr: its peak rate.
        epochs: the students' epochs.
        batch_size: of F and students.
        lr: peak rate of the students.
        precision: autocast of F's training and of the students.
        device: torch device.
        deadline: ``time.time()`` after which no epoch is begun.
    """

    out: str
    big: str
    big_width: float
    big_epochs: int
    big_lr: float
    epochs: int
    batch_size: int
    lr: float
    precision: Literal["fp32", "bf16", "fp16"]
    device: str
    deadline: float

    @property
    def folder(self) -> Path:
        """``out`` as a path."""
        return Path(self.out)

    @property
    def big_folder(self) -> Path:
        """Where F, its bank's form and its figures are."""
        return self.folder / "big" / self.big


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student: by which contestant's settings, how wide, from which seed."""

    label: str
    candidate: int
    width: float
    seed: int

    def name(self, big: str) -> str:
        """The job's name; plain training knows no F."""
        teacher = "alone" if self.label == "ce" else big
        return f"{self.label}.{self.candidate}.{teacher}.w{self.width:g}.s{self.seed}"


def settings_of(job: Job, plan: Plan) -> tuple[MethodSettings, TrainSettings]:
    """The method's and the optimiser's settings of a job."""
    candidate = dict(CONTESTANTS[job.label][job.candidate])
    rate = plan.lr * candidate.pop("train.lr", 1.0)
    train = TrainSettings(
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        lr=rate,
        precision=plan.precision,
    )
    return MethodSettings(**candidate), train


def views_of(data: DataBundle, device: str) -> AugmentedViews:
    """The training images, cropped and flipped afresh every time."""
    return AugmentedViews(
        data.train, mean=data.mean, std=data.std, views=0, augment="crop_flip", device=device
    )


def accuracy(model: torch.nn.Module, data: DataBundle, split: Split, device: str) -> float:
    """Accuracy in [0, 1] on a split."""
    return evaluate(model, plain_batches(split, mean=data.mean, std=data.std, device=device))


def new_big_model(plan: Plan, data: DataBundle) -> Student:
    """F, untrained."""
    torch.manual_seed(child_seed(0, "big_model", 0))
    settings = BigModelSettings(name=plan.big, width=plan.big_width)
    return build_big_model(settings, classes=data.num_classes, channels=data.channels, size=data.size)


def train_on(distiller: Distiller, checkpoint: TrialCheckpoint, deadline: float) -> list[dict[str, Any]]:
    """Train to the full budget or the deadline, from the checkpoint; seconds and losses of its epochs."""
    history = checkpoint.load(distiller)
    while distiller.epoch < distiller.train.epochs and time.time() < deadline:
        stats = distiller.run_epoch()
        assert stats is not None
        history.append({"seconds": stats.seconds, "losses": stats.losses, "teachers": list(stats.teachers)})
    if distiller.epoch < distiller.train.epochs:
        checkpoint.save(distiller, history)
    return history


def one_thread() -> None:
    """What a process begins with; not in ``__main__``, which a spawned process does not read."""
    torch.set_num_threads(1)


def big_model_job(plan: Plan) -> dict[str, Any] | None:
    """Train F and measure it, and the form of its bank; its figures, None where time ran out."""
    figures_file = plan.big_folder / "figures.json"
    if figures_file.exists():
        return dict(json.loads(figures_file.read_text(encoding="utf-8")))
    data = load_prepared(plan.folder / "data")
    place = str(plan.big_folder)
    checkpoint = TrialCheckpoint(place)
    plan.big_folder.mkdir(parents=True, exist_ok=True)
    train = TrainSettings(
        epochs=plan.big_epochs,
        batch_size=plan.batch_size,
        lr=plan.big_lr,
        schedule="one_cycle",
        precision=plan.precision,
    )
    views = views_of(data, plan.device)
    distiller = Distiller(
        new_big_model(plan, data),
        views,
        MethodSettings(name="ce"),
        train,
        seed=child_seed(0, "big_model", 0),
        device=plan.device,
        class_count=data.num_classes,
    )
    history = train_on(distiller, checkpoint, plan.deadline)
    if distiller.epoch < plan.big_epochs:
        return None
    model = distiller.eval_student()
    assert isinstance(model, Student)
    save_weights(model.model, plan.big_folder / "model.safetensors")
    save_bank(
        compute_bank([model], views, BankSettings(grid=4), device=plan.device), plan.big_folder / "bank"
    )
    figures = {
        "name": plan.big,
        "bytes": model_bytes(model.model),
        "parameters": model_parameters(model.model),
        "val_accuracy": accuracy(model, data, data.validation, plan.device),
        "test_accuracy": accuracy(model, data, data.test, plan.device),
        "seconds_per_epoch": median_high([epoch["seconds"] for epoch in history]),
    }
    figures_file.write_text(json.dumps(figures, indent=1))
    remove_checkpoints(place)
    return figures


def student_job(given: tuple[Job, Plan]) -> Training | None:
    """Train and measure one student; None where time ran out."""
    job, plan = given
    data = load_prepared(plan.folder / "data")
    method, train = settings_of(job, plan)
    big_models, bank = [], None
    if method.name != "ce":
        big = new_big_model(plan, data)
        load_weights(big.model, plan.big_folder / "model.safetensors")
        big_models, bank = [big.eval()], load_bank(plan.big_folder / "bank")
    seed = child_seed(job.seed, "student", str(job.width))
    torch.manual_seed(seed)
    student = build_student(
        StudentSettings(name="mobilenet_v2", width=job.width),
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
    )
    distiller = Distiller(
        student,
        views_of(data, plan.device),
        method,
        train,
        seed=seed,
        bank=bank,
        big_models=big_models,
        device=plan.device,
        class_count=data.num_classes,
    )
    place = str(plan.folder / "jobs" / job.name(plan.big))
    checkpoint = TrialCheckpoint(place)
    history = train_on(distiller, checkpoint, plan.deadline)
    if distiller.epoch < plan.epochs:
        return None
    model = distiller.eval_student()
    remove_checkpoints(place)
    return Training(
        label=job.name(plan.big),
        seed=job.seed,
        val_accuracy=accuracy(model, data, data.validation, plan.device),
        test_accuracy=accuracy(model, data, data.test, plan.device),
        seconds_per_epoch=median_high([epoch["seconds"] for epoch in history]),
        parameters=model_parameters(student.model),
        bytes=model_bytes(student.model),
    )
