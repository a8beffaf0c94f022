"""Imports torchvision, even if its C++ operators do not load with the installed torch.

The wheels of torchvision and torch may come from different builds (a CUDA torchvision with a CPU torch, as
package indexes offer them). The extension library then fails to load, and ``import torchvision`` fails too,
because it registers fake kernels for ``torchvision::nms`` and ``torchvision::qnms``, which are not defined.
Image classifiers use neither, so it is enough to define the two schemas without kernels; calling them raises
an error. If the operators load, nothing is defined.

Every import of torchvision in this project is::

    from tkd_search.models.torchvision_compat import torchvision
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def operators_load() -> bool:
    """Load torchvision's C++ operators and return whether this succeeded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = Path(next(iter(spec.submodule_search_locations)))
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = folder / f"_C{suffix}"
        if library.exists():
            try:
                torch.ops.load_library(str(library))
            except (ImportError, OSError):
                return False
            return True
    return False


def define_missing_schemas() -> tuple[str, ...]:
    """Define the operators that ``import torchvision`` needs and that are missing; return their names."""
    missing = tuple(name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name.split("::")[1]))
    for name in missing:
        torch.library.define(name, _SCHEMAS[name])
    return missing


def import_torchvision() -> ModuleType:
    """Import torchvision of any build.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not operators_load():
        define_missing_schemas()
    return importlib.import_module("torchvision")


def image_functions() -> Any:
    """Return ``torchvision.transforms.v2.functional``, which ``import torchvision`` leaves out."""
    return importlib.import_module("torchvision.transforms.v2.functional")


torchvision = import_torchvision()
