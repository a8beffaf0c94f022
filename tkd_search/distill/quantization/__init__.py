"""Simulated rounding of a student's weights and activations during training; plain PyTorch.

``number_format`` names the formats, ``rounding`` holds the arithmetic on tensors, ``targets`` decides which
weights of which layers are rounded, ``simulation`` puts a network into simulated rounding.
``tkd_search.formats`` writes and reads the files with the same arithmetic, so a file computes what the
simulated network computes.
The names are imported on first use: settings name formats without PyTorch.
"""

from typing import TYPE_CHECKING

from tkd_search.distill.quantization.number_format import FORMATS, Format
from tkd_search.lazy import importer

if TYPE_CHECKING:
    from tkd_search.distill.quantization.simulation import (
        calibrate,
        observe,
        set_rounding,
        simulate,
        update_ranges,
    )

__all__ = ["FORMATS", "Format", "calibrate", "observe", "set_rounding", "simulate", "update_ranges"]

__getattr__ = importer(
    __name__,
    dict.fromkeys(("calibrate", "observe", "set_rounding", "simulate", "update_ranges"), "simulation"),
)
