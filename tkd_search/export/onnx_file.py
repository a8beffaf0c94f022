"""ONNX: written, checked against PyTorch on real samples, and run."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.errors import UserError
from tkd_search.export.student_description import StudentDescription

OPSET = 18
ONNX_FILE = "model.onnx"
INPUT, OUTPUT = "images", "logits"
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How an ONNX file compares with PyTorch on ``samples`` images.

    ``difference`` is the largest absolute difference of logits, ``same`` how many predictions agree.
    """

    samples: int
    difference: float
    same: int


def export_onnx(model: nn.Module, description: StudentDescription, path: Path) -> Path:
    """Write a network as ONNX, opset 18, with a dynamic batch, atomically.

    The input ``images`` is what the transform makes: normalised float32 [batch, C, H, W]. Size, mean, std
    and class names are in the file's metadata.

    Raises:
        UserError: the packages of the extra ``export`` are missing.
    """
    onnx = needed("onnx")
    needed("onnxscript")
    one = description.preprocessing
    example = torch.zeros(2, one.channels, one.size, one.size)
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    facts = {
        "classes": "\n".join(description.classes),
        "size": str(one.size),
        "mean": " ".join(map(repr, one.mean)),
        "std": " ".join(map(repr, one.std)),
        "student": description.name,
    }
    _strip(proto.graph)
    onnx.helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto)
    part = path.with_name(f".{path.name}.part")
    onnx.save(proto, str(part))
    os.replace(part, path)
    return path


def _strip(graph: Any) -> None:
    """Remove the exporter's notes: they hold stack traces with the paths of the machine that exported."""
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.metadata_props[:]


def session(path: Path, threads: int = 1) -> Any:
    """An onnxruntime session on the CPU."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(opened: Any, images: Tensor) -> Tensor:
    """Logits [B, c] of normalised images [B, C, H, W]."""
    name = opened.get_inputs()[0].name
    return torch.from_numpy(opened.run(None, {name: images.contiguous().numpy()})[0])


def verify(path: Path, model: nn.Module, images: Tensor) -> Verified:
    """Compare an ONNX file with PyTorch on normalised images [B, C, H, W], one by one and as a batch.

    Raises:
        RuntimeError: logits differ by more than a thousandth of their largest: the export is wrong.
    """
    opened = session(path)
    with torch.inference_mode():
        expected = model(images.contiguous())
    found = run(opened, images)
    single = run(opened, images[:1])
    difference = max(float((found - expected).abs().max()), float((single - expected[:1]).abs().max()))
    if not difference <= TOLERANCE * float(expected.abs().max()) + 1e-6:
        raise RuntimeError(f"{path}: logits differ from PyTorch's by {difference:.3g}; do not ship this file")
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    return Verified(samples=len(images), difference=difference, same=same)


def needed(module: str) -> Any:
    """A module of the extra ``export``.

    Raises:
        UserError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = "./setup.sh, or pip install onnx onnxruntime onnxscript"
        raise UserError(
            "export", f"no package {module} ({error})", "the extra `export` installed", hint
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own deprecations; neither is the user's."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
