"""What a warm worker group can be asked to do: train F, compute the bank, train a student, test the front.

A job is a plain dictionary with a ``kind``; its results are pushed as plain dictionaries too, so that
broker, Tune and the study never see a tensor. Whatever a job leaves is whole or not there, at a place
that all nodes reach (:mod:`tkd_search.storage.object_store`).
"""

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.config.pruner import configured_pruner
from tkd_search.data import DataBundle, fixed_views
from tkd_search.distill.method_settings import MethodSettings, TrainSettings
from tkd_search.distill.training.distiller import Distiller
from tkd_search.distill.training.epoch_stats import EpochStats
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.distill.training.reduction import reduction_for
from tkd_search.engine.jobs import caches, make_bank
from tkd_search.engine.jobs.checkpoint import TrialCheckpoint
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.models import Student, build_big_model, build_student, model_bytes, model_parameters
from tkd_search.models.latency import latency_ms, torch_threads
from tkd_search.models.weights import load_weights, save_weights, weights_file
from tkd_search.seeds import child_seed
from tkd_search.storage import remote_folders


def run_job(job: dict[str, Any], context: JobContext) -> None:
    """Dispatch on ``job["kind"]``; raises KeyError for an unknown kind.

    ``job["threads"]``, where it is there, is how many threads the job may use in place of the group's own.
    """
    with torch_threads(job.get("threads") or torch.get_num_threads()):
        _HANDLERS[job["kind"]](job, context)


def train_big_model(job: dict[str, Any], context: JobContext) -> None:
    """Train (or load) one F and store it with its figures; resumable from its last epoch.

    Pushes ``{"kind": "epoch", "epoch", "val_accuracy", ...}`` per epoch and
    ``{"kind": "done", "figures": {...}}``.
    """
    config, data = caches.config_of(job["config"]), caches.data_at(job["data"])
    settings = config.settings()
    model_settings = settings.big_models[job["index"]]
    checkpoint = TrialCheckpoint(job["checkpoint"])
    torch.manual_seed(child_seed(settings.seed, "big_model", job["index"]))
    model = build_big_model(model_settings, classes=data.num_classes, channels=data.channels, size=data.size)
    model = model.to(context.device)
    if model_settings.weights is None:
        train = TrainSettings(
            epochs=model_settings.epochs,
            batch_size=min(model_settings.batch_size, len(data.train.labels)),
            lr=model_settings.lr,
            weight_decay=model_settings.weight_decay,
            schedule="one_cycle",
            precision=settings.big_model_precision(model_settings),
        )
        # F is augmented afresh each epoch: only the students must see exactly the banked views.
        views = caches.views_of(data, settings, views=0, device=context.device)
        distiller = Distiller(
            model,
            views,
            MethodSettings(name="ce"),
            train,
            seed=child_seed(settings.seed, "big_model", job["index"]),
            device=context.device,
            group=reduction_for(context.workers),
            class_count=data.num_classes,
        )
        if not _train(distiller, data, job, context, checkpoint):
            return
        model = cast(Student, distiller.eval_student())
    if context.rank == 0:
        figures = {
            "name": model_settings.name,
            "bytes": model_bytes(model.model),
            "parameters": model_parameters(model.model),
            "val_accuracy": evaluate(model, caches.batches_of(data, data.validation, context.device)),
            "test_accuracy": evaluate(model, caches.batches_of(data, data.test, context.device)),
        }
        with remote_folders.write_folder(job["folder"]) as folder:
            save_weights(model.model, folder / "model.safetensors")
            (folder / "figures.json").write_text(json.dumps(figures, indent=1))
        checkpoint.remove()
        context.push({"kind": "done", "figures": figures})


def train_trial(job: dict[str, Any], context: JobContext) -> None:
    """Distil one student, from its last checkpoint where there is one.

    Epochs that the driver has not heard of (after ``job["after_epoch"]``) are replayed from the
    checkpoint's history, so that a restart leaves no gap in the records.
    """
    config, data = caches.config_of(job["config"]), caches.data_at(job["data"])
    settings = config.settings(job["point"])
    seed = child_seed(settings.seed, "trial", job["trial_id"])
    torch.manual_seed(seed)
    student = build_student(
        settings.student, classes=data.num_classes, channels=data.channels, size=data.size
    )
    live = settings.data.views == 0 or settings.method.distil_back == "big_model"
    big_models = (
        caches.big_models_at(job["config"], job["data"], tuple(job["big_models"]), context.device)
        if live and settings.method.name != "ce"
        else ()
    )
    distiller = Distiller(
        student,
        caches.views_of(data, settings, views=fixed_views(settings.data), device=context.device),
        settings.method,
        settings.training,
        seed=seed,
        bank=caches.bank_at(job["bank"]) if settings.method.name != "ce" else None,
        big_models=big_models,
        device=context.device,
        group=reduction_for(context.workers),
        class_count=data.num_classes,
    )
    if _train(distiller, data, job, context, TrialCheckpoint(job["folder"])) and context.rank == 0:
        _store_weights(cast(Student, distiller.eval_student()).model, job["folder"])
        context.push({"kind": "done"})


def test_front(job: dict[str, Any], context: JobContext) -> None:
    """Measure front members once on the test split, and their CPU latency.

    ``job["members"]``: list of ``{"trial_id", "point", "weights"}``. Pushes one
    ``{"kind": "tested", "trial_id", "test_accuracy", "latency_ms"}`` each, then ``{"kind": "done"}``.
    """
    if context.rank != 0:
        return
    config, data = caches.config_of(job["config"]), caches.data_at(job["data"])
    for member in job["members"]:
        settings = config.settings(member["point"])
        student = build_student(
            settings.student, classes=data.num_classes, channels=data.channels, size=data.size
        )
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.safetensors"
            storage.get_file(member["weights"], weights)
            load_weights(student.model, weights)
        example = torch.zeros(1, data.channels, data.size, data.size)
        latency = latency_ms(student.model, example)
        accuracy = evaluate(student.to(context.device), caches.batches_of(data, data.test, context.device))
        context.push(
            {
                "kind": "tested",
                "trial_id": member["trial_id"],
                "test_accuracy": accuracy,
                "latency_ms": latency,
            }
        )
    context.push({"kind": "done"})


_HANDLERS: dict[str, Callable[[dict[str, Any], JobContext], None]] = {
    "big_model": train_big_model,
    "bank": make_bank.build_bank,
    "survey": make_bank.survey_part,
    "bank_part": make_bank.bank_part,
    "assemble": make_bank.assemble_bank,
    "trial": train_trial,
    "test": test_front,
}


def _train(
    distiller: Distiller,
    data: DataBundle,
    job: dict[str, Any],
    context: JobContext,
    checkpoint: TrialCheckpoint,
) -> bool:
    """Train to the full budget, pushing each epoch; False where the job was superseded.

    A validated epoch is pushed with its figures, another as ``{"kind": "alive", "epoch"}`` alone.
    """
    history = checkpoint.load(distiller)
    for past in history:
        if past["epoch"] > job.get("after_epoch", 0):
            context.push(past)
    levels = configured_pruner(caches.config_of(job["config"]), data.num_classes).levels
    while distiller.epoch < distiller.train.epochs:
        stats = distiller.run_epoch(context.should_stop)
        if stats is None:
            return False
        if context.rank != 0:
            continue
        told: dict[str, Any] = {"kind": "alive", "epoch": stats.epoch}
        validated = _validated(stats.epoch, distiller.train, levels)
        if validated:
            told = _validation(distiller, stats, data, context)
            history.append(told)
        if validated or checkpoint.due():
            checkpoint.save(distiller, history)
        context.push(told)
    return True


def _validation(
    distiller: Distiller, stats: EpochStats, data: DataBundle, context: JobContext
) -> dict[str, Any]:
    """The result of an epoch that is validated."""
    batches = caches.batches_of(data, data.validation, context.device)
    accuracy = evaluate(distiller.eval_student(), context.beating(batches))
    return {
        "kind": "epoch",
        "epoch": stats.epoch,
        "val_accuracy": accuracy,
        "metrics": {
            **stats.losses,
            "seconds": stats.seconds,
            **{f"weight.{name}": weight for name, weight in stats.teachers},
            **{f"agreement.{name}": cka for name, cka in stats.agreements},
        },
        "last": stats.epoch >= distiller.train.epochs,
    }


def _validated(epoch: int, train: TrainSettings, levels: Sequence[int]) -> bool:
    return epoch % train.validate_every == 0 or epoch in levels or epoch >= train.epochs


def _store_weights(model: torch.nn.Module, place: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_weights(model, weights)
        storage.put_file(weights, storage.below(place, weights.name))


def job_config(config: Config) -> str:
    """The configuration as it travels in a job, whose process may have another working directory."""
    tree = copy.deepcopy(dict(config.tree))
    for model in models if isinstance(models := tree["big_model"], list) else [models]:
        weights = weights_file(model.get("weights") or "")
        if weights is not None:
            model["weights"] = str(weights)
    return json.dumps(tree)


__all__ = ["JobContext", "job_config", "run_job"]
