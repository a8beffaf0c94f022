"""Latencies of untrained networks on the driver's machine: a search's cost, or a limit on its students."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch

from tkd_search.data import DataBundle
from tkd_search.data.networks import big_model_for, student_for
from tkd_search.distill.quantization.number_format import Format
from tkd_search.errors import UserError, first_line
from tkd_search.export.onnx_file import MEASURE_SECONDS, latency_ms
from tkd_search.export.shipping import untrained_onnx
from tkd_search.files import read_json, write_json
from tkd_search.models import Student
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.results.records import BigModelRecord

Measure = Callable[[StudentSettings | BigModelSettings, Format], float]
"""Settings of a network, and its number format → milliseconds of one image."""


class Latencies:
    """Milliseconds for one image by architecture and number format, measured at the first use.

    They are kept in a file, so that a resumed search makes the same decisions.

    Args:
        file: JSON, settings and format → milliseconds.
        measure: called once per architecture and format.
    """

    def __init__(self, file: Path, measure: Measure) -> None:
        self._file, self._measure = file, measure
        self._known: dict[str, float] = read_json(file) if file.exists() else {}

    def of(self, student: StudentSettings) -> float:
        """Return the milliseconds of one image through this architecture, whatever its weights."""
        student = replace(student, importance=StudentSettings().importance, weights=None)
        return self._found(student, student.format)

    def with_latencies(self, big_model: BigModelRecord, settings: BigModelSettings) -> BigModelRecord:
        """Return a big model's figures with its latency, and that of each of its references."""
        references = tuple(
            replace(one, latency=self._found(settings, cast(Format, one.format)))
            for one in big_model.references
        )
        return replace(big_model, latency=self._found(settings, "fp32"), references=references)

    def _found(self, settings: StudentSettings | BigModelSettings, format: Format) -> float:
        key = json.dumps({**asdict(settings), "format": format}, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._measure(settings, format)
            write_json(self._file, self._known, indent=1)
        return self._known[key]


def too_slow(latency: float, limit: float) -> str:
    """Return why a student is not trained; empty where it keeps the limit (both in milliseconds)."""
    if latency <= limit:
        return ""
    return f"not trained: {latency:.3g} ms for one image on the CPU, above search.max_latency {limit:g} ms"


def measure_latency(
    settings: StudentSettings | BigModelSettings,
    format: Format,
    data: DataBundle,
    big_model: BigModelSettings,
    seconds: float = MEASURE_SECONDS,
) -> float:
    """Return the milliseconds of one image through an untrained network's ONNX file, on one thread.

    Args:
        settings: of the network.
        format: number format of the file.
        data: the data set, which gives the shape of images.
        big_model: settings of the big model that a cut is cut from.
        seconds: see :func:`~tkd_search.export.onnx_file.latency_ms`.

    Raises:
        UserError: the network cannot be built, exported or run.
    """
    if isinstance(settings, BigModelSettings):
        built, where = big_model_for(settings, data)[0], "big_model"
    else:
        built, where = student_for(settings, big_model, data), "student"
    try:
        return _measured(built, format, seconds)
    except Exception as error:  # the exporter's and onnxruntime's own errors are of many types
        raise UserError(
            where,
            f"{settings.name}, whose latency cannot be measured: {type(error).__name__}: {first_line(error)}",
            "a network that torch exports to ONNX and onnxruntime runs",
            "a search by bytes measures no latency: --set search.cost=bytes --set search.max_latency=null",
        ) from error


def _measured(built: Student, format: Format, seconds: float) -> float:
    onnx = untrained_onnx(built.model, format, built.input_shape)
    image = torch.randn(1, *built.input_shape, generator=torch.Generator().manual_seed(0))
    return latency_ms(onnx, image, (1,), seconds=seconds)[1]
