"""Big models and students by name, their size and latency, and safe loading of weights.

The functions are imported on first use, because importing torchvision takes over a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tkd_search.models.build import build_big_model, build_student
    from tkd_search.models.latency import latency_ms
    from tkd_search.models.size import model_bytes, model_parameters
    from tkd_search.models.student import Student
    from tkd_search.models.weights import load_weights, save_weights

_MODULES = {
    "build_big_model": "build",
    "build_student": "build",
    "Student": "student",
    "model_bytes": "size",
    "model_parameters": "size",
    "latency_ms": "latency",
    "save_weights": "weights",
    "load_weights": "weights",
}

__all__ = [
    "Student",
    "build_big_model",
    "build_student",
    "latency_ms",
    "load_weights",
    "model_bytes",
    "model_parameters",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
