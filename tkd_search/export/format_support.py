"""Checks before a search that onnxruntime can run the files that the search will write."""

import tempfile
from collections.abc import Collection
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from tkd_search.distill.quantization.number_format import FORMATS
from tkd_search.errors import UserError, first_line
from tkd_search.export.shipping import write_files

_WEIGHTS = 64
"""Weights of one output channel of the probe: enough that int4 does not store them in 8 bits."""


def check_formats(formats: Collection[str], where: str = "student.format") -> None:
    """Refuse int4 where onnxruntime cannot run such a file; the other formats need no recent version.

    Args:
        formats: number formats that will be written.
        where: setting or option that the error names.

    Raises:
        UserError: int4 is among them, and a tiny int4 file does not run or computes other logits.
    """
    if "int4" in formats and (reason := int4_problem()):
        others = [format for format in FORMATS if format != "int4"]
        raise UserError(
            where,
            f"int4, which onnxruntime {_onnxruntime_version()} does not run here ({reason})",
            ", ".join(others),
            "install the versions in constraints.txt (onnxruntime 1.20 or newer), or leave int4 out",
        )


@cache
def int4_problem() -> str:
    """Return why onnxruntime cannot run a tiny int4 file, '' where it can; found out once a process."""
    layer = nn.utils.skip_init(nn.Linear, _WEIGHTS, 2).eval().requires_grad_(False)
    # Multiples of 1/8 up to ±7/8, which int4 holds exactly.
    layer.weight.copy_((torch.arange(2 * _WEIGHTS).view(2, _WEIGHTS) % 15 - 7) / 8)
    layer.bias.zero_()
    images = torch.linspace(0.0, 1.0, _WEIGHTS)[None]
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = write_files(layer, "int4", (_WEIGHTS,), Path(folder))(images)
    except Exception as error:  # onnxruntime's own errors are of many types
        return f"{type(error).__name__}: {first_line(error)}"
    if not torch.allclose(found, layer(images), atol=1e-3):
        return "it computes other logits than the weights"
    return ""


def _onnxruntime_version() -> str:
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return "(missing)"
