"""Runs ``model.onnx`` with onnxruntime, as a network, and measures its latency."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tkd_search.distill.quantization.number_format import Format, rounds_inputs

ONNX_FILE = "model.onnx"

MEASURE_SECONDS = 0.3
"""Time in which a latency is measured, per batch size."""

_CALLS, _LEAST_MEDIANS = 11, 3
"""Calls of a median, and the least number of medians."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How an ONNX file compares with the loaded weights on ``samples`` images.

    ``difference`` is the largest absolute difference of logits, ``same`` the number of equal predictions.
    """

    samples: int
    difference: float
    same: int


class OnnxNetwork(nn.Module):
    """Computes logits [B, c] of normalised images [B, C, H, W] by an ONNX file, on the CPU.

    Args:
        path: the file.
        threads: number of CPU threads.
        optimised: let onnxruntime rewrite the graph, as it does by default.
    """

    def __init__(self, path: Path, threads: int = 1, *, optimised: bool = True) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.path = path
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def as_written(self) -> "OnnxNetwork":
        """Return the same file without onnxruntime's changes of the graph, which make it faster."""
        return OnnxNetwork(self.path, optimised=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, on the CPU."""
        return torch.from_numpy(self._session.run(None, {self._input: images.cpu().contiguous().numpy()})[0])


def verify(onnx: nn.Module, network: nn.Module, images: Tensor, format: Format) -> Verified:
    """Compare an ONNX file with the network of its weights on normalised images [B, C, H, W].

    int8 rounds activations: sums of another order may fall on the neighbouring level, and images near a
    decision boundary then change their class. Pass the file ``as_written``: in weak int8 students the graph
    that onnxruntime rewrites differs on more images. The reported accuracy is that of the rewritten graph.

    Raises:
        RuntimeError: more predictions differ than rounding explains: over a tenth with int8, else a
        hundredth.
    """
    share = 0.1 if rounds_inputs(format) else 0.01
    with torch.inference_mode():
        expected, found = network(images.contiguous()), onnx(images)
    difference = float((found - expected).abs().max())
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    if len(images) - same > max(1, share * len(images)):
        raise RuntimeError(
            f"the ONNX file predicts other classes than the weights on {len(images) - same} of "
            f"{len(images)} images; do not ship it"
        )
    return Verified(samples=len(images), difference=difference, same=same)


def latency_ms(
    onnx: OnnxNetwork,
    example: Tensor,
    batch_sizes: Sequence[int] = (1, 32),
    *,
    seconds: float = MEASURE_SECONDS,
) -> dict[int, float]:
    """Measure the milliseconds of a call, per batch size: the lowest of several medians of a few calls.

    Other work on the machine only makes calls slower, so the lowest median is the one least disturbed.

    Args:
        onnx: the file, opened with the number of threads to measure.
        example: images [≥ 1, C, H, W]; the first is repeated.
        batch_sizes: each ≥ 1.
        seconds: least time of the timed calls per batch size; there are three medians at least.
    """
    return {size: _lowest_median(onnx, example[:1].repeat(size, 1, 1, 1), seconds) for size in batch_sizes}


def _lowest_median(onnx: OnnxNetwork, batch: Tensor, seconds: float) -> float:
    onnx(batch)  # the first call allocates memory
    medians: list[float] = []
    end = time.perf_counter() + seconds
    while len(medians) < _LEAST_MEDIANS or time.perf_counter() < end:
        medians.append(statistics.median(_seconds(onnx, batch) for _ in range(_CALLS)))
    return 1000 * min(medians)


def _seconds(onnx: OnnxNetwork, batch: Tensor) -> float:
    start = time.perf_counter()
    onnx(batch)
    return time.perf_counter() - start
