"""Compress an image classifier by searched knowledge distillation.

The public names are imported on first use: the method (``tkd_search.distill``) also runs on machines that
have PyTorch alone, and ``--help`` is immediate.
"""

from typing import TYPE_CHECKING

from tkd_search.lazy import importer

__version__ = "0.1.0"
__all__ = ["Experiment", "__version__", "load"]

if TYPE_CHECKING:
    from tkd_search.api import Experiment as Experiment
    from tkd_search.export import load as load

__getattr__ = importer(__name__, {"Experiment": "api", "load": "export"})
