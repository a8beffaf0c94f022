"""tkd_search: compress an image classifier by searched knowledge distillation.

Importing the package loads nothing heavy: the method (``tkd_search.distill``) must run on machines
that have PyTorch alone, so the public names are resolved when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Experiment", "__version__", "load"]

_PUBLIC = {"Experiment": "tkd_search.api", "load": "tkd_search.export"}

if TYPE_CHECKING:
    from tkd_search.api import Experiment as Experiment
    from tkd_search.export import load as load


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tkd_search' has no attribute {name!r}")
