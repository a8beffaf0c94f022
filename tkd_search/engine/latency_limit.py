"""The limit on a student's latency, measured once per architecture and applied before training."""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tkd_search.data import DataBundle
from tkd_search.files import read_json, write_json
from tkd_search.models.model_settings import BigModelSettings, StudentSettings

ATTEMPTS = 3
"""Measurements of a student above the limit: other work on the machine can only make it slower."""


class Latencies:
    """Milliseconds for one image by architecture, measured at the first use.

    They are kept in a file, so that a resumed search makes the same decisions.

    Args:
        file: JSON, the settings of a student → milliseconds.
        measure: settings of a student → milliseconds.
    """

    def __init__(self, file: Path, measure: Callable[[StudentSettings], float]) -> None:
        self._file, self._measure = file, measure
        self._known: dict[str, float] = read_json(file) if file.exists() else {}

    def of(self, student: StudentSettings) -> float:
        """Return the milliseconds of one image through this architecture on the CPU."""
        key = json.dumps(asdict(student), sort_keys=True)
        if key not in self._known:
            self._known[key] = self._measure(student)
            write_json(self._file, self._known, indent=1)
        return self._known[key]


def too_slow(latency: float, limit: float) -> str:
    """Return why a student is not trained; empty where it keeps the limit (both in milliseconds)."""
    if latency <= limit:
        return ""
    return f"not trained: {latency:.3g} ms for one image on the CPU, above search.max_latency {limit:g} ms"


def measure_student(
    student: StudentSettings, data: DataBundle, big_model: BigModelSettings, limit: float = math.inf
) -> float:
    """Return the median milliseconds of one image through an untrained student's ONNX file, on one thread.

    Args:
        student: its settings.
        data: the data set, which gives the shape of images.
        big_model: settings of the big model that a cut is cut from.
        limit: in milliseconds; above it, the lowest of ``ATTEMPTS`` medians is returned.
    """
    import torch

    from tkd_search.data.networks import student_for
    from tkd_search.export.onnx_file import latency_ms
    from tkd_search.export.shipping import calibrated, write_files

    built = student_for(student, big_model, data)
    example = torch.randn(2, *built.input_shape, generator=torch.Generator().manual_seed(0))
    model = calibrated(built.model.eval(), student.format, [example])
    best = math.inf
    with tempfile.TemporaryDirectory() as folder:
        onnx = write_files(model, student.format, built.input_shape, Path(folder))
    for _ in range(ATTEMPTS):
        best = min(best, latency_ms(onnx, example, (1,))[1])
        if best <= limit:
            break
    return best
