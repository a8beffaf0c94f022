"""The job that measures the front's students on the test images."""

import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tkd_search import storage
from tkd_search.config.settings_json import from_json
from tkd_search.data.networks import student_for
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.export.onnx_file import ONNX_FILE, OnnxNetwork, latency_ms, verify
from tkd_search.export.shipping import student_files
from tkd_search.export.student_description import WEIGHTS_FILE, read_cut
from tkd_search.formats import unpack
from tkd_search.models.image_input import rendered

_VERIFY_IMAGES = 256


def measure_front(job: dict[str, Any], context: JobContext) -> None:
    """Verify each member's files and measure their test metric and CPU latency, on rank 0.

    Pushes ``{"kind": "tested", "trial_id", "test_accuracy", "latency_ms"}`` per member, then
    ``{"kind": "done"}``.

    Args:
        job: place ``data``, and ``members``: a list of ``{"trial_id", "settings", "folder"}``.
        context: the worker group.
    """
    if context.rank != 0:
        return
    data = caches.data_at(job["data"])
    for member in job["members"]:
        trial = from_json(member["settings"])
        settings = trial.student
        with tempfile.TemporaryDirectory() as folder:
            for name in student_files(settings):
                storage.get_file(storage.below(member["folder"], name), Path(folder) / name)
            student = student_for(settings, trial.big_models[0], data, read_cut(Path(folder), settings))
            onnx = OnnxNetwork(Path(folder) / ONNX_FILE)
            as_written = onnx.as_written()
            loaded = unpack(load_file(Path(folder) / WEIGHTS_FILE), student.model, settings.format)
        validation = caches.batches_of(data, data.validation, "cpu", _VERIFY_IMAGES)
        sample, _ = next(rendered(validation, student.render))
        verify(as_written, loaded, sample, settings.format)
        latency = latency_ms(onnx, sample)
        test = rendered(caches.batches_of(data, data.test, "cpu"), student.render)
        accuracy = evaluate(onnx, context.beating(test), trial.metric)
        context.push(
            {
                "kind": "tested",
                "trial_id": member["trial_id"],
                "test_accuracy": accuracy,
                "latency_ms": latency,
            }
        )
    context.push({"kind": "done"})
