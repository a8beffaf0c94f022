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
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.path = path
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, on the CPU."""
        return torch.from_numpy(self._session.run(None, {self._input: images.cpu().contiguous().numpy()})[0])


def verify(onnx: nn.Module, network: nn.Module, images: Tensor, format: Format) -> Verified:
    """Compare an ONNX file with the network of its weights on normalised images [B, C, H, W].

    int8 rounds activations: sums of another order may fall on the neighbouring level, and images near a
    decision boundary then change their class. The ONNX file's own accuracy is the one that is reported.

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
    onnx: OnnxNetwork, example: Tensor, batch_sizes: Sequence[int] = (1, 32), repeats: int = 50
) -> dict[int, float]:
    """Measure the median milliseconds of a call, per batch size.

    Args:
        onnx: the file, opened with the number of threads to measure.
        example: images [≥ 1, C, H, W]; the first is repeated.
        batch_sizes: each ≥ 1.
        repeats: timed calls per batch size, after a tenth as many untimed calls.
    """
    return {size: _median(onnx, example[:1].repeat(size, 1, 1, 1), repeats) for size in batch_sizes}


def _median(onnx: OnnxNetwork, batch: Tensor, repeats: int) -> float:
    for _ in range(max(1, repeats // 10)):
        onnx(batch)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        onnx(batch)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
