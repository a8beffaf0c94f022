"""Exact bytes of a configuration's student, where the recording has its experiment."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from benchmarks.simulator.curves import Curves
from tkd_search.config.experiment_file import Config, parse_config
from tkd_search.formats import shipped_bytes
from tkd_search.models import Student, build_student, model_bytes
from tkd_search.models.model_settings import StudentSettings
from tkd_search.optimize.space import Distribution, FloatDistribution

_STEPS = 256
"""Steps of the range of a float leaf; values are rounded to them, so that few students are built."""


class Shape(TypedDict):
    """What a network is built for: number of classes, channels and side of the images."""

    classes: int
    channels: int
    size: int


class ExactSizes:
    """Bytes of a configuration: exact for the student at the nearest of 257 widths, built once each.

    PyTorch's meta device would need no memory but takes six times as long.

    Args:
        config: the recorded experiment.
        shape: ``classes``, ``channels`` and ``size`` of the data.
    """

    def __init__(self, config: Config, shape: Mapping[str, int]) -> None:
        self._config = config
        self._shape = Shape(classes=shape["classes"], channels=shape["channels"], size=shape["size"])
        self._big_model = config.settings().big_models[0]
        self._known: dict[tuple[tuple[str, Any], ...], int] = {}

    def __call__(self, point: Mapping[str, Any]) -> int:
        """Return the bytes of the student of a configuration."""
        leaves = self._config.space.leaves
        student = {k: _stepped(leaves[k], v) for k, v in point.items() if k.startswith("student.")}
        key = tuple(sorted(student.items()))
        if key not in self._known:
            settings = self._config.settings(student).student
            built = build_student(settings, **self._shape, big_model=self._big_model)
            self._known[key] = student_bytes(built, settings, self._config)
        return self._known[key]


def student_bytes(student: Student, settings: StudentSettings, config: Config) -> int:
    """Return the bytes that ship; of the fp32 state dict where an experiment does not search the format."""
    if "student.format" in config.space.leaves:
        return shipped_bytes(student.model, settings.format)
    return model_bytes(student.model)


def exact_sizes(curves: Curves) -> ExactSizes | None:
    """Return a function from configurations to bytes, None where ``meta.json`` lacks the experiment."""
    experiment, data = curves.meta.get("experiment"), curves.meta.get("data")
    if not isinstance(experiment, Mapping) or not isinstance(data, Mapping):
        return None
    shape = {"classes": curves.classes, "channels": data["channels"], "size": data["size"]}
    return ExactSizes(parse_config(experiment), shape)


def _stepped(distribution: Distribution, value: Any) -> Any:
    if not isinstance(distribution, FloatDistribution) or distribution.high <= distribution.low:
        return value
    low, high = distribution.low, distribution.high
    if distribution.log:
        share = round(_STEPS * math.log(value / low) / math.log(high / low)) / _STEPS
        return float(min(max(low * (high / low) ** share, low), high))
    return low + round(_STEPS * (value - low) / (high - low)) / _STEPS * (high - low)
