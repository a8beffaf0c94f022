"""Exact bytes of a configuration's student, built without memory where the recording says how."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from benchmarks.simulator.curves import Curves


def exact_sizes(curves: Curves) -> Callable[[Mapping[str, Any]], int] | None:
    """A function from configurations to bytes, or None where ``meta.json`` does not hold the experiment.

    The student is built on PyTorch's meta device: shapes without memory.
    """
    experiment, data = curves.meta.get("experiment"), curves.meta.get("data")
    if not isinstance(experiment, Mapping) or not isinstance(data, Mapping):
        return None
    import torch

    from tkd_search.config import parse_config
    from tkd_search.models import build_student, model_bytes

    config = parse_config(experiment)
    shape = {"classes": curves.classes, "channels": data["channels"], "size": data["size"]}

    @cache
    def built(leaves: tuple[tuple[str, Any], ...]) -> int:
        settings = config.settings(dict(leaves)).student
        with torch.device("meta"):
            return model_bytes(build_student(settings, **shape).model)

    def size_of(point: Mapping[str, Any]) -> int:
        student = tuple(sorted((k, v) for k, v in point.items() if k.startswith("student.")))
        return built(student)

    return size_of
