"""int8 as users make it without training: onnxruntime's static quantisation, by its documentation."""

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor


def quantise(source: Path, target: Path, images: Iterable[Tensor]) -> None:
    """Write an fp32 ONNX file in int8: QDQ, weights per output channel, ranges of inputs by MinMax.

    Args:
        source: the fp32 file.
        target: the file to write.
        images: normalised batches [B, C, H, W] that represent the training images.
    """
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared)
    name = onnx.load(source).graph.input[0].name
    quantize_static(prepared, target, _Images(name, images), per_channel=True)


class _Images(CalibrationDataReader):
    def __init__(self, name: str, images: Iterable[Tensor]) -> None:
        self._name, self._images = name, iter(images)

    def get_next(self) -> dict[str, object] | None:
        batch = next(self._images, None)
        return None if batch is None else {self._name: batch.contiguous().numpy()}
