"""The job that trains or loads one big model."""

import copy
import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import nn

from tkd_search.config.sections import TrialSettings
from tkd_search.config.settings_json import from_json
from tkd_search.data import DataBundle
from tkd_search.distill.method_settings import MethodSettings, MetricName, TrainSettings
from tkd_search.distill.training.distiller import Distiller
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.distill.training.reduction import reduction_for
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.checkpoint import TrialCheckpoint
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.jobs.train_loop import train
from tkd_search.export.shipping import calibrated
from tkd_search.formats import Format, pack, unpack
from tkd_search.models import Student, build_big_model, model_bytes, model_parameters
from tkd_search.models.image_input import Render, rendered
from tkd_search.models.model_settings import BigModelSettings
from tkd_search.models.weights import save_weights
from tkd_search.seeds import child_seed
from tkd_search.storage import remote_folders

REFERENCE_FORMATS: tuple[Format, ...] = ("fp16", "int8")
"""Formats of the references beside fp32."""

_CALIBRATION_IMAGES = 256


def train_big_model(job: dict[str, Any], context: JobContext) -> None:
    """Train (or load) one big model and store its weights and figures.

    The training goes on from its last checkpoint. Pushes a result per epoch (see :func:`train_loop.train`)
    and ``{"kind": "done", "figures"}``.

    Args:
        job: ``settings``; ``index`` of the big model; places ``data``, ``folder`` and ``checkpoint``; and
            ``after_epoch`` where the driver knows epochs.
        context: the worker group.
    """
    settings, data = from_json(job["settings"]), caches.data_at(job["data"])
    model_settings = settings.big_models[job["index"]]
    checkpoint = TrialCheckpoint(job["checkpoint"])
    seed = child_seed(settings.seed, "big_model", job["index"])
    torch.manual_seed(seed)
    model = build_big_model(
        model_settings,
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        given=data.input,
    )
    model = model.to(context.device)
    if model_settings.weights is None:
        distiller = _distiller(model, settings, model_settings, data, context, seed)
        after = job.get("after_epoch", 0)
        if not train(distiller, data, context, checkpoint, after_epoch=after, metric=settings.metric):
            return
        model = cast(Student, distiller.eval_student())
    if context.rank == 0:
        accuracies = _accuracies(model, data, context, settings.metric)
        figures = {
            "name": model_settings.name,
            "bytes": model_bytes(model.model),
            "parameters": model_parameters(model.model),
            **accuracies,
            "references": _references(model, accuracies, data, context, settings.metric),
        }
        with remote_folders.write_folder(job["folder"]) as folder:
            save_weights(model.model, folder / "model.safetensors")
            (folder / "figures.json").write_text(json.dumps(figures, indent=1))
        checkpoint.remove()
        context.push({"kind": "done", "figures": figures})


def _accuracies(
    model: nn.Module,
    data: DataBundle,
    context: JobContext,
    metric: MetricName,
    render: Render | None = None,
) -> dict[str, float]:
    """Return the metric on validation and test images; ``render`` makes the network's input."""
    parts = (("val", data.validation), ("test", data.test))
    batches = {name: caches.batches_of(data, split, context.device) for name, split in parts}
    return {
        f"{name}_accuracy": evaluate(model, context.beating(rendered(images, render)), metric)
        for name, images in batches.items()
    }


def _references(
    big_model: Student,
    accuracies: Mapping[str, float],
    data: DataBundle,
    context: JobContext,
    metric: MetricName,
) -> list[dict[str, Any]]:
    """Return the big model's figures in fp32, fp16 and int8, each as its file computes.

    A format whose range a weight exceeds is left out.
    """
    model, render = big_model.model, big_model.render
    whole = model_bytes(model)
    references: list[dict[str, Any]] = [{"format": "fp32", "bytes": whole, "ratio": 1.0, **accuracies}]
    sample = caches.batches_of(data, data.train.evenly(_CALIBRATION_IMAGES), context.device)
    images, _ = next(rendered(sample, render))
    for format in REFERENCE_FORMATS:
        try:
            tensors = pack(calibrated(copy.deepcopy(model).eval(), format, images.split(64)), format)
        except ValueError:
            continue
        loaded = unpack(tensors, model.cpu(), format).to(context.device)
        size = len(save(tensors))
        figures = {"format": format, "bytes": size, "ratio": size / whole}
        references.append({**figures, **_accuracies(loaded, data, context, metric, render)})
    return references


def _distiller(
    model: Student,
    settings: TrialSettings,
    model_settings: BigModelSettings,
    data: DataBundle,
    context: JobContext,
    seed: int,
) -> Distiller:
    """Return the training of a big model with labels alone."""
    return Distiller(
        model,
        # Fresh augmentation in every epoch: only students must see exactly the views of the bank.
        caches.views_of(data, settings, views=0, device=context.device),
        MethodSettings(name="ce"),
        TrainSettings(
            epochs=model_settings.epochs,
            batch_size=min(model_settings.batch_size, len(data.train.labels)),
            lr=model_settings.lr,
            weight_decay=model_settings.weight_decay,
            class_weights=settings.training.class_weights,
            schedule="one_cycle",
            precision=settings.big_model_precision(model_settings),
        ),
        seed=seed,
        device=context.device,
        group=reduction_for(context.workers),
        class_count=data.num_classes,
        balanced=settings.data.sampling == "balanced",
    )
