"""Bytes of a configuration's student, built where the recording says how."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from benchmarks.simulator.curves import Curves
from tkd_search.search.space import Distribution, FloatDistribution

_STEPS = 256
"""Float leaves are taken to the nearest of so many steps of their range, so that few students are built."""


def exact_sizes(curves: Curves) -> Callable[[Mapping[str, Any]], int] | None:
    """A function from configurations to bytes, or None where ``meta.json`` does not hold the experiment.

    Exact for the student at the nearest of 257 widths; PyTorch's meta device would need no memory but
    takes six times as long.
    """
    experiment, data = curves.meta.get("experiment"), curves.meta.get("data")
    if not isinstance(experiment, Mapping) or not isinstance(data, Mapping):
        return None
    from tkd_search.config import parse_config
    from tkd_search.models import build_student, model_bytes

    config = parse_config(experiment)
    shape = {"classes": curves.classes, "channels": data["channels"], "size": data["size"]}

    @cache
    def built(leaves: tuple[tuple[str, Any], ...]) -> int:
        settings = config.settings(dict(leaves)).student
        return model_bytes(build_student(settings, **shape).model)

    def size_of(point: Mapping[str, Any]) -> int:
        student = {
            k: _stepped(config.space.leaves[k], v) for k, v in point.items() if k.startswith("student.")
        }
        return built(tuple(sorted(student.items())))

    return size_of


def _stepped(distribution: Distribution, value: Any) -> Any:
    if not isinstance(distribution, FloatDistribution) or distribution.high <= distribution.low:
        return value
    low, high = distribution.low, distribution.high
    if distribution.log:
        share = round(_STEPS * math.log(value / low) / math.log(high / low)) / _STEPS
        return float(min(max(low * (high / low) ** share, low), high))
    return low + round(_STEPS * (value - low) / (high - low)) / _STEPS * (high - low)
