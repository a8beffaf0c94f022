"""The one door to torchvision: imports it also where its C++ operators do not load beside this torch.

torchvision's wheel and torch's wheel may come from different builds (a CUDA torchvision beside a CPU torch,
as package indexes serve them). The extension library then fails to load, and ``import torchvision`` itself
fails, because it registers fake kernels for ``torchvision::nms`` and ``torchvision::qnms``, which nobody
defined. Image classifiers use neither, so defining the two schemas, without kernels, is all that is needed.
Calling them still raises, as it should. Where the operators load, nothing is defined.

Every import of torchvision in this project reads::

    from tkd_search.models.torchvision_compat import torchvision
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def operators_load() -> bool:
    """Whether torchvision's C++ operators load beside the running torch (loads them where they do)."""
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
    """Define the operators that ``import torchvision`` asks for and nobody defined; returns their names."""
    missing = tuple(name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name.split("::")[1]))
    for name in missing:
        torch.library.define(name, _SCHEMAS[name])
    return missing


def import_torchvision() -> ModuleType:
    """Import torchvision, whichever build it is.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not operators_load():
        define_missing_schemas()
    return importlib.import_module("torchvision")


torchvision = import_torchvision()
