"""``model.onnx``, written small: folded, short names, weights in the student's format.

int8: DequantizeLinear of int8 weights per channel, QuantizeLinear and DequantizeLinear of inputs with the
trained ranges. int4: INT4 weights (opset 21), Cast and multiplied by their scales, as are int8 weights of
layers whose output is not rounded. Floats that fp16 holds exactly are stored so, with a Cast. onnxruntime
folds a Cast and a Mul of constants once, when it loads the file; it computes a DequantizeLinear that is not
followed by integer arithmetic in every run, and such a convolution by a slow kernel: MobileNetV3-small in
int8 took 6.8 times as long.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.quantization.number_format import Format
from tkd_search.distill.quantization.rounding import to_integers
from tkd_search.distill.quantization.simulation import become, input_grids, plain, with_input
from tkd_search.distill.quantization.targets import targets, targets_by_module
from tkd_search.formats.onnx_shrinking import shrink

INPUT, OUTPUT = "images", "logits"
OPSET: Mapping[Format, int] = {"fp32": 18, "fp16": 18, "int8": 18, "int4": 21}

_SCRIPT_OPSET = 18
"""Opset in which the TorchScript exporter writes; it knows no INT4, which comes in afterwards."""


def onnx_bytes(network: nn.Module, format: Format, input_shape: Sequence[int]) -> bytes:
    """Return the ONNX file of a network, with a dynamic batch.

    Args:
        network: what ``unpack`` returned; its weights lie on the format's grid.
        format: number format of its weights.
        input_shape: (C, H, W) of the normalised float32 images it reads.

    Raises:
        ImportError: the packages ``onnx`` and ``onnxscript`` are missing.
    """
    explicit = _explicit(network, format)
    with _quiet():
        model = _exported(explicit, torch.zeros(2, *input_shape))
    model.graph.opset_imports[""] = OPSET[format]
    four_bit = {f"{t.module}.{t.parameter}_q".lstrip(".") for t in targets(network, format) if t.bits == 4}
    return shrink(model, four_bit=four_bit)


class _Quantise(torch.autograd.Function):
    """QuantizeLinear and DequantizeLinear of the TorchScript exporter."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def symbolic(g: Any, inputs: Any, scale: Any, zero: Any) -> Any:
        return g.op("DequantizeLinear", g.op("QuantizeLinear", inputs, scale, zero), scale, zero).setType(
            inputs.type()
        )


class _Dequantise(torch.autograd.Function):
    """DequantizeLinear of integers, of the TorchScript exporter."""

    @staticmethod
    def forward(ctx: Any, integers: Tensor, scales: Tensor, axis: int) -> Tensor:
        return integers.to(scales.dtype)

    @staticmethod
    def symbolic(g: Any, integers: Any, scales: Any, axis: int) -> Any:
        made = g.op("DequantizeLinear", integers, scales, axis_i=axis)
        return made.setType(integers.type().with_dtype(torch.float32))


class _ExplicitLayer(nn.Module):
    """A layer that exports its rounding as ONNX operators instead of computing it."""

    axis_of: dict[str, int]
    grid_scale: Tensor
    grid_zero: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Quantise and dequantise the input where it has a grid."""
        if "grid_scale" in self._buffers:
            args, kwargs = with_input(self._on_grid, args, kwargs)
        return super().forward(*args, **kwargs)

    def rounded(self, name: str) -> Tensor:
        """Return the weight as DequantizeLinear of its integers."""
        integers, scales = getattr(self, f"{name}_q"), getattr(self, f"{name}_s")
        axis = self.axis_of[name]
        if torch.jit.is_tracing():
            made: Tensor = _Dequantise.apply(integers, scales, axis)
            return made
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", [integers, scales], {"axis": axis}, dtype=torch.float32, shape=integers.shape
        )

    def _on_grid(self, inputs: Tensor) -> Tensor:
        grid, shape = (self.grid_scale, self.grid_zero), inputs.shape
        if torch.jit.is_tracing():
            made: Tensor = _Quantise.apply(inputs, *grid)
            return made
        rounded = torch.onnx.ops.symbolic("QuantizeLinear", [inputs, *grid], dtype=torch.uint8, shape=shape)
        return torch.onnx.ops.symbolic("DequantizeLinear", [rounded, *grid], dtype=inputs.dtype, shape=shape)


def _explicit(network: nn.Module, format: Format) -> nn.Module:
    """Return a copy whose rounded layers export their rounding."""
    grids = input_grids(network)
    made = copy.deepcopy(network).eval()
    plain(made)
    for name, found in targets_by_module(made, format).items():
        module = made.get_submodule(name)
        for parameter, target in found.items():
            weight = module._parameters[parameter]
            assert weight is not None
            integers, scales = to_integers(weight, target.bits, target.axis)
            module.register_buffer(f"{parameter}_q", integers)
            module.register_buffer(f"{parameter}_s", scales)
        if name in grids:
            scale, zero = grids[name]
            module.register_buffer("grid_scale", scale.clone())
            module.register_buffer("grid_zero", zero.to(torch.uint8))
        become(module, _ExplicitLayer, tuple(found))
        axes: Any = {parameter: target.axis for parameter, target in found.items()}
        module.axis_of = axes
    return made


def _exported(network: nn.Module, example: Tensor) -> Any:
    """Return the ``onnx_ir`` model of a network.

    The TorchScript exporter takes a thirtieth of the time of the one that replaces it (.2 s for a
    MobileNetV2). The newer one exports what it cannot, or where PyTorch no longer has it.
    """
    try:
        return _by_script(network, example)
    except Exception:
        return _by_program(network, example)


def _by_script(network: nn.Module, example: Tensor) -> Any:
    import onnx
    import onnx_ir as ir

    file: Any = io.BytesIO()
    torch.onnx.export(
        network,
        (example,),
        file,
        dynamo=False,
        opset_version=_SCRIPT_OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
    )
    return ir.from_proto(onnx.load_from_string(file.getvalue()))


def _by_program(network: nn.Module, example: Tensor) -> Any:
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=_SCRIPT_OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, and keep attention off the kernel that they do not know."""
    level, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fast)
