"""Post-training int8 of an exported student: onnxruntime's, calibrated on training images."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from tkd_search.export.onnx_file import needed, session

INT8_FILE = "model.int8.onnx"
CALIBRATION_IMAGES = 256


def quantise(source: Path, target: Path, batches: Iterable[Tensor]) -> Path:
    """Quantise weights (per channel, symmetric) and activations to 8 bits, atomically.

    Args:
        source: an exported float model.
        target: where the quantised one goes.
        batches: normalised training images [B, C, H, W] from which activations' ranges are taken
            as minima and maxima.

    Raises:
        UserError: the packages of the extra ``export`` are missing.
    """
    quantization = needed("onnxruntime.quantization")
    preprocess = needed("onnxruntime.quantization.shape_inference")
    part = target.with_name(f".{target.name}.part")
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        preprocess.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(part),
            _reader(quantization, prepared, batches),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            per_channel=True,
        )
    os.replace(part, target)
    return target


def _reader(quantization: Any, model: Path, batches: Iterable[Tensor]) -> Any:
    name = session(model).get_inputs()[0].name

    class Reader(quantization.CalibrationDataReader):
        """Hands batches to the calibrator one by one."""

        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch.contiguous().numpy()}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
