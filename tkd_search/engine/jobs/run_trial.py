"""The job that trains one student."""

import json
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tkd_search import storage
from tkd_search.config.sections import TrialSettings
from tkd_search.config.settings_json import from_json
from tkd_search.data import DataBundle, fixed_views
from tkd_search.data.networks import student_for
from tkd_search.distill.method_settings import MetricName
from tkd_search.distill.quantization.number_format import Format
from tkd_search.distill.training.distiller import Distiller
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.distill.training.reduction import reduction_for
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.checkpoint import TrialCheckpoint
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.jobs.train_loop import train
from tkd_search.export.shipping import write_files
from tkd_search.export.student_description import CUT_FILE
from tkd_search.models import Student, cut_student
from tkd_search.models.image_input import rendered
from tkd_search.models.model_settings import CUT
from tkd_search.models.weight_selection import start_from, weights_key
from tkd_search.seeds import child_seed

_CUT_IMAGES = 2048
"""Training images by which a cut's channels are chosen and its batch statistics computed."""

_CUT_BATCH = 128


def run_trial(job: dict[str, Any], context: JobContext) -> None:
    """Train one student, from its last checkpoint where there is one, and store its files.

    Pushes a result per epoch (see :func:`train_loop.train`) and ``{"kind": "done"}``.

    Args:
        job: ``settings``, ``trial_id``, ``point`` (its searched values as text) and ``after_epoch`` of the
            trial; the rungs' ``levels``; places ``data``, ``bank``, ``big_models`` and ``folder``; and
            ``student_weights``, places by :func:`~tkd_search.models.weight_selection.weights_key`.
        context: the worker group.
    """
    settings, data = from_json(job["settings"]), caches.data_at(job["data"])
    seed = child_seed(settings.seed, "trial", job["trial_id"])
    torch.manual_seed(seed)
    checkpoint = TrialCheckpoint(job["folder"], job.get("point", ""))
    student = _student(settings, data, job, context, checkpoint)
    live = settings.data.views == 0 or settings.method.distil_back == "big_model"
    distilled = settings.method.name != "ce"
    big_models = (
        caches.big_models_at(settings.big_models, job["data"], job["big_models"], context.device)
        if live and distilled
        else ()
    )
    distiller = Distiller(
        student,
        caches.views_of(data, settings, views=fixed_views(settings.data), device=context.device),
        settings.method,
        settings.training,
        seed=seed,
        bank=caches.bank_at(job["bank"]) if distilled else None,
        big_models=big_models,
        device=context.device,
        reduction=reduction_for(context.workers),
        class_count=data.num_classes,
        balanced=settings.data.sampling == "balanced",
        format=settings.student.format,
    )
    complete = train(
        distiller,
        data,
        context,
        checkpoint,
        after_epoch=job["after_epoch"],
        levels=job["levels"],
        ship=partial(
            _ship,
            format=settings.student.format,
            data=data,
            context=context,
            place=job["folder"],
            metric=settings.metric,
        ),
        metric=settings.metric,
    )
    if complete and context.rank == 0:
        context.push({"kind": "done"})


def _student(
    settings: TrialSettings,
    data: DataBundle,
    job: dict[str, Any],
    context: JobContext,
    checkpoint: TrialCheckpoint,
) -> Student:
    """Return the student before its first step; of a cut, ``cut.json`` is stored by rank 0.

    A resumed trial keeps the record of its first start, whatever the importance would choose now.
    """
    big_model = settings.big_models[0]
    if settings.student.name != CUT:
        student = student_for(settings.student, big_model, data)
        place = job.get("student_weights", {}).get(weights_key(settings.student))
        if place is not None:
            state = caches.weights_at(place)
            start_from(student, state, settings.student.name, where="student.weights", source=place)
        return student
    file = storage.below(job["folder"], CUT_FILE)
    try:
        record = json.loads(storage.read_bytes(file) or b"null")
    except ValueError:
        record = None  # damaged: the same cut is made again
    if record is not None and checkpoint.exists():
        return student_for(settings.student, big_model, data, record)
    big_models = caches.big_models_at(settings.big_models, job["data"], job["big_models"], context.device)
    here, _ = caches.stored_big_model(big_model, job["big_models"][0], data)
    images = data.train.evenly(_CUT_IMAGES)
    # Equal batches, because batch statistics weigh them alike, and one image alone has none.
    batch = math.ceil(len(images.labels) / math.ceil(len(images.labels) / _CUT_BATCH))
    student, record = cut_student(
        settings.student,
        big_models[0],
        here,
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        batches=caches.batches_of(data, images, context.device, batch),
        seed=child_seed(settings.seed, "cut", job["trial_id"]),
        given=data.input,
    )
    if context.rank == 0:
        storage.write_bytes(file, json.dumps(record).encode())
    return student


def _ship(
    student: nn.Module,
    format: Format,
    data: DataBundle,
    context: JobContext,
    place: str,
    metric: MetricName,
) -> float:
    """Store the student's files and return the validation metric of ``model.onnx`` under onnxruntime."""
    trained = cast(Student, student)
    batches = rendered(caches.batches_of(data, data.validation, "cpu"), trained.cpu().render)
    with tempfile.TemporaryDirectory() as folder:
        onnx = write_files(trained.model, format, trained.input_shape, Path(folder))
        accuracy = evaluate(onnx, context.beating(batches), metric)
        for file in sorted(Path(folder).iterdir()):
            storage.put_file(file, storage.below(place, file.name))
    return accuracy
