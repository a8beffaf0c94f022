"""The job that trains, fine-tunes or loads one big model."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import nn

from tkd_search.config.sections import TrialSettings
from tkd_search.config.settings_json import from_json
from tkd_search.data import DataBundle
from tkd_search.data.networks import big_model_for
from tkd_search.distill.method_settings import MethodSettings, MetricName, TrainSettings
from tkd_search.distill.training.distiller import Distiller
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.distill.training.reduction import reduction_for
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.checkpoint import TrialCheckpoint
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.jobs.train_loop import train
from tkd_search.engine.run_dir.checkpoint_files import remove_checkpoints
from tkd_search.export.shipping import calibrated
from tkd_search.formats import Format, pack, unpack
from tkd_search.models import Student, model_bytes, model_parameters
from tkd_search.models.build import is_trained
from tkd_search.models.image_input import Render, rendered
from tkd_search.models.model_settings import BigModelSettings
from tkd_search.models.weights import Head, save_weights
from tkd_search.seeds import child_seed
from tkd_search.storage import remote_folders

REFERENCE_FORMATS: tuple[Format, ...] = ("fp16", "int8")
"""Formats of the references beside fp32."""

_CALIBRATION_IMAGES = 256


def train_big_model(job: dict[str, Any], context: JobContext) -> None:
    """Train, fine-tune or load one big model and store its weights and figures.

    Weights for other classes than those of the data get a new last layer, which is trained alone first; then
    all layers are fine-tuned. The training of all layers goes on from its last checkpoint. Pushes a result
    per epoch (see :func:`train_loop.train`) and ``{"kind": "done", "figures"}``; before fine-tuning,
    ``{"kind": "fine_tuning"}``.

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
    model, head = big_model_for(model_settings, data)
    model = model.to(context.device)
    if is_trained(model_settings, head):
        if model_settings.weights is not None:
            context.push({"kind": "fine_tuning"})
        training = _Training(model, settings, model_settings, data, context, seed)
        if head.parameters and not checkpoint.exists() and not _train_head(training, head):
            return
        distiller = training.of_all_layers()
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
            (folder / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
        remove_checkpoints(job["checkpoint"])
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
    images_of = data.train.evenly(_CALIBRATION_IMAGES)
    sample = caches.batches_of(data, images_of, context.device, _CALIBRATION_IMAGES)
    images, _ = next(rendered(sample, render))
    model, images = copy.deepcopy(model).cpu().eval(), images.cpu()  # files are packed on the CPU
    for format in REFERENCE_FORMATS:
        try:
            tensors = pack(calibrated(copy.deepcopy(model), format, images.split(64)), format)
        except ValueError:
            continue
        loaded = unpack(tensors, model, format).to(context.device)
        size = len(save(tensors))
        figures = {"format": format, "bytes": size, "ratio": size / whole}
        references.append({**figures, **_accuracies(loaded, data, context, metric, render)})
    return references


@dataclass(frozen=True)
class _Training:
    """The training of one big model with labels alone."""

    model: Student
    settings: TrialSettings
    model_settings: BigModelSettings
    data: DataBundle
    context: JobContext
    seed: int

    def of_all_layers(self) -> Distiller:
        """Return the training of all layers; pretrained ones have lower rates towards the input."""
        chosen = self.model_settings
        return self._distiller(chosen.epochs, 1.0 if chosen.weights is None else chosen.layer_decay)

    def of_head(self) -> Distiller:
        """Return the training of the parameters that learn now."""
        return self._distiller(self.model_settings.head_epochs)

    def _distiller(self, epochs: int, layer_decay: float = 1.0) -> Distiller:
        return Distiller(
            self.model,
            # Fresh augmentation in every epoch: only students must see exactly the views of the bank.
            caches.views_of(self.data, self.settings, views=0, device=self.context.device),
            MethodSettings(name="ce"),
            TrainSettings(
                epochs=max(1, epochs),
                batch_size=min(self.model_settings.batch_size, len(self.data.train.labels)),
                lr=self.model_settings.lr,
                weight_decay=self.model_settings.weight_decay,
                class_weights=self.settings.training.class_weights,
                schedule="one_cycle",
                precision=self.settings.big_model_precision(self.model_settings),
            ),
            seed=self.seed,
            device=self.context.device,
            reduction=reduction_for(self.context.workers),
            class_count=self.data.num_classes,
            balanced=self.settings.data.sampling == "balanced",
            layer_decay=layer_decay,
        )


def _train_head(training: _Training, head: Head) -> bool:
    """Train a new last layer alone, in place; return False where the job was superseded.

    Batch normalisations adapt their statistics to the data meanwhile.
    """
    model, context = training.model.model, training.context
    frozen = [p for name, p in model.named_parameters() if name not in head.parameters and p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    distiller = training.of_head()
    while distiller.epoch < training.model_settings.head_epochs:
        if distiller.run_epoch(context.should_stop) is None:
            return False
        context.push({"kind": "alive", "epoch": 0})
    for parameter in frozen:
        parameter.requires_grad_(True)
    return True
