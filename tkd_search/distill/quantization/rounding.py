"""Rounding of weights and activations to integers times a scale.

Weights are symmetric per output channel: w ≈ s_c · q with q in [−127, 127] for 8 bits and [−7, 7] for 4 bits.
Inputs of layers are affine per tensor: x ≈ s · (q − zero) with q in [0, 255]. Letters: C output channels, n
weights of a channel.
"""

from typing import Any, cast

import torch
from torch import Tensor

INPUT_LEVELS = 255
SCALE_UNIT = 1 / 256
"""Scales are stored as float16 multiples of this, so that scales down to 2.4e-7 keep 11 significant bits."""

_CLIPS = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58, 0.51)
"""Shares of the largest weight that 4-bit rounding tries as its largest value."""

_MOST_VALUES = 400_000
"""Rounded at once: small weights are faster together, eight copies of a large one would take gigabytes."""

_TINY = 1e-12
_HALF_NORMAL, _HALF_MAX = 2.0**-14, 65504.0


def largest_integer(bits: int) -> int:
    """Return the largest integer of symmetric rounding: 127 for 8 bits, 7 for 4."""
    return 2 ** (bits - 1) - 1


@torch.no_grad()
def weight_scales(weight: Tensor, bits: int, axis: int) -> Tensor:
    """Return the scales [C] of a weight whose output channels lie along ``axis``.

    With 8 bits the largest weight of a channel becomes ±127. With 4 bits the scale of least squared error is
    taken out of eight that clip the largest weights.
    """
    weight, most = weight.detach().float(), largest_integer(bits)
    others = [i for i in range(weight.dim()) if i != axis]
    scales = (weight.abs().amax(others) / most).clamp_min_(_TINY)
    if bits > 4:
        return scales
    rows = weight.movedim(axis, 0).flatten(1)
    best, least = scales, torch.full_like(scales, torch.inf)
    for clips in torch.tensor(_CLIPS, device=weight.device).split(max(1, _MOST_VALUES // rows.numel())):
        tried = scales * clips[:, None]
        wide = tried[..., None]
        errors = (rows / wide).round_().clamp_(-most, most).mul_(wide).sub_(rows).square_().sum(-1)
        error, index = errors.min(0)
        best = torch.where(error < least, tried.gather(0, index[None])[0], best)
        least = torch.minimum(error, least)
    return best


def to_integers(weight: Tensor, bits: int, axis: int) -> tuple[Tensor, Tensor]:
    """Return the integers (int8, the shape of ``weight``) and the scales (float32 [C]) of a weight."""
    scales, most = weight_scales(weight, bits, axis), largest_integer(bits)
    wide = along(scales, axis, weight.dim())
    return (weight.detach().float() / wide).round().clamp(-most, most).to(torch.int8), scales


def along(channels: Tensor, axis: int, dimensions: int) -> Tensor:
    """Return a tensor [C] in a shape that broadcasts along ``axis`` of a tensor of so many dimensions."""
    return channels.view([-1 if i == axis else 1 for i in range(dimensions)])


def round_weight(weight: Tensor, bits: int, axis: int) -> Tensor:
    """Return the rounded weight; its gradient reaches every weight unchanged (straight through)."""
    return cast(Tensor, _RoundWeight.apply(weight, bits, axis))


class _RoundWeight(torch.autograd.Function):
    """Per-channel rounding. Clipped weights get gradients too, unlike those of torch's own function.

    On CPUs the four elementwise operations take a tenth of the time of torch's fused kernel, which is not
    vectorised there (torch 2.13).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, axis: int) -> Tensor:
        scales, most = weight_scales(weight, bits, axis), largest_integer(bits)
        if weight.device.type == "cpu":
            wide = along(scales, axis, weight.dim())
            rounded = (weight / wide).round_()
            # The scales of 8 bits clip nothing.
            return (rounded if bits > 4 else rounded.clamp_(-most, most)).mul_(wide)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, axis, -most, most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def input_grid(reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of inputs.

    Args:
        reach: how far inputs go below and above zero [..., 2], both ≥ 0.

    Returns:
        Scales [...], float32 and equal to what the file stores, and zero points [...], int32 in [0, 255].
    """
    scale = restored_scale(stored_scale(reach.sum(-1) / INPUT_LEVELS))
    zero = (reach[..., 0] / scale).round().clamp(0, INPUT_LEVELS)
    return scale, zero.to(torch.int32)


def round_input(inputs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return inputs rounded to 256 levels; their gradient is that of the rounded ones (straight through)."""
    return cast(Tensor, _RoundInput.apply(inputs, scale, zero))


class _RoundInput(torch.autograd.Function):
    """Per-tensor rounding, on CPUs by elementwise operations as in ``_RoundWeight``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        if inputs.device.type == "cpu" and not torch.compiler.is_compiling():
            step, low = float(scale), -float(zero)
            return (inputs * (1 / step)).round_().clamp_(low, low + INPUT_LEVELS).mul_(step)
        return torch.fake_quantize_per_tensor_affine(inputs, scale, zero, 0, INPUT_LEVELS)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


@torch.no_grad()
def reach_of(inputs: Tensor) -> Tensor:
    """Return how far values go below and above zero [2], both ≥ 0."""
    # In the order of memory: on channels-last tensors the reduction is ten times slower (CPU, torch 2.13).
    strides = inputs.stride()
    order = sorted(range(inputs.dim()), key=lambda i: -strides[i])
    low, high = torch.aminmax(inputs.detach().permute(order))
    return torch.stack((-low, high)).float().clamp_min(0)


def stored_scale(scale: Tensor) -> Tensor:
    """Return scales as float16 multiples of ``SCALE_UNIT``, clamped to its normal numbers."""
    return (scale / SCALE_UNIT).clamp(_HALF_NORMAL, _HALF_MAX).half()


def restored_scale(stored: Tensor) -> Tensor:
    """Return what ``stored_scale`` keeps, as float32."""
    return stored.float() * SCALE_UNIT
