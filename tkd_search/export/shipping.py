"""Writes the files of a trained student, ``model.safetensors`` and ``model.onnx``, in its number format."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tkd_search.distill.quantization.number_format import Format
from tkd_search.distill.quantization.simulation import calibrate, simulate
from tkd_search.export.onnx_file import ONNX_FILE, OnnxNetwork
from tkd_search.export.student_description import CUT_FILE, WEIGHTS_FILE
from tkd_search.files import write_bytes
from tkd_search.formats import save, unpack
from tkd_search.formats.onnx_writer import onnx_bytes
from tkd_search.models.model_settings import CUT, StudentSettings


def student_files(architecture: StudentSettings) -> tuple[str, ...]:
    """Return the names of the files that a trial stores."""
    return (WEIGHTS_FILE, ONNX_FILE, *((CUT_FILE,) if architecture.name == CUT else ()))


def write_files(
    network: nn.Module, format: Format, input_shape: Sequence[int], folder: Path, *, stem: str = ""
) -> OnnxNetwork:
    """Write both files of a trained network and return the ONNX file, ready to run.

    Args:
        network: plain network in eval mode; for int8 with the ranges of its inputs (see ``calibrated``).
        format: number format of the files.
        input_shape: (C, H, W) of the images.
        folder: target folder; created if missing.
        stem: text between ``model`` and the suffix, such as ``.int8``.

    Raises:
        ValueError: a weight is not finite or beyond the range of the format.
    """
    weights = _named(folder, WEIGHTS_FILE, stem)
    save(network, format, weights)
    return write_onnx(unpack(load_file(weights), network, format), format, input_shape, folder, stem=stem)


def write_onnx(
    loaded: nn.Module, format: Format, input_shape: Sequence[int], folder: Path, *, stem: str = ""
) -> OnnxNetwork:
    """Write the ONNX file of loaded weights and return it, ready to run; arguments as ``write_files``."""
    onnx = _named(folder, ONNX_FILE, stem)
    write_bytes(onnx, onnx_bytes(loaded, format, input_shape))
    return OnnxNetwork(onnx)


def calibrated(network: nn.Module, format: Format, images: Iterable[Tensor]) -> nn.Module:
    """Prepare a trained float network for ``write_files``, in place: no training, ranges from images.

    Args:
        network: plain network in eval mode.
        format: number format of the files.
        images: normalised batches [B, C, H, W] that represent the training images; read for int8 only.
    """
    simulate(network, format)
    calibrate(network, images)
    return network


def untrained_onnx(network: nn.Module, format: Format, input_shape: Sequence[int]) -> OnnxNetwork:
    """Return the ONNX file of a network before its training, ready to run; nothing stays on the disk.

    Args:
        network: plain network, prepared for the format in place (see ``calibrated``).
        format: number format of the file.
        input_shape: (C, H, W) of the images.
    """
    example = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    model = calibrated(network.eval(), format, [example])
    with tempfile.TemporaryDirectory() as folder:
        return write_files(model, format, input_shape, Path(folder))


def _named(folder: Path, name: str, stem: str) -> Path:
    base, _, suffix = name.partition(".")
    return folder / f"{base}{stem}.{suffix}"
