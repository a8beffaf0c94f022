"""The job that measures the front's students on the test images."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from tkd_search import storage
from tkd_search.config.settings_json import from_json
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.models import build_student
from tkd_search.models.latency import latency_ms
from tkd_search.models.weights import load_weights


def measure_front(job: dict[str, Any], context: JobContext) -> None:
    """Measure each member's test accuracy and CPU latency, on rank 0.

    Pushes ``{"kind": "tested", "trial_id", "test_accuracy", "latency_ms"}`` per member, then
    ``{"kind": "done"}``.

    Args:
        job: place ``data``, and ``members``: a list of ``{"trial_id", "settings", "weights"}``.
        context: the worker group.
    """
    if context.rank != 0:
        return
    data = caches.data_at(job["data"])
    for member in job["members"]:
        student = build_student(
            from_json(member["settings"]).student,
            classes=data.num_classes,
            channels=data.channels,
            size=data.size,
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
