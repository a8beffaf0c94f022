"""Depthwise convolutions on maps smaller than their kernel, as sums over pairs of positions.

oneDNN's backward pass is slow there: a 3 × 3 kernel takes 3.5 ms on 2 × 2 positions and .5 ms on 3 × 3 (96
rows, 96 channels, one thread). Students of 8 × 8 images would spend half of their training time in it.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallMapDepthwise(nn.Conv2d):
    """A depthwise convolution that trains fast on a CPU even where its kernel is larger than the map.

    Parameters, names and values (up to rounding) are those of ``nn.Conv2d``. Evaluation, export, other
    devices and larger maps use PyTorch's convolution.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or not _is_slow_in_onednn(input, weight):
            return super()._conv_forward(input, weight, bias)
        output = depthwise_on_small_map(input, weight)
        return output if bias is None else output + bias[:, None, None]


def speed_up_depthwise(model: nn.Module) -> None:
    """Replace every depthwise convolution that keeps its map's size by a ``SmallMapDepthwise``, in place."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_plain_depthwise(module):
            module.__class__ = SmallMapDepthwise


def depthwise_on_small_map(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve [B, C, H, W] depthwise with [C, 1, k, k], k odd, with stride 1 and size-keeping padding.

    This takes B·C·(H·W)² multiplications, so it suits maps of few positions.
    """
    rows, channels, height, width = x.shape
    taps = F.pad(weight.flatten(1), (0, 1)).t()
    between = taps[_tap_between(height, width, weight.shape[-1]).to(x.device)]
    positions = x.permute(0, 2, 3, 1).reshape(rows, height * width, channels)
    summed = cast(Tensor, _SumOverPositions.apply(positions, between))
    return summed.view(rows, height, width, channels).permute(0, 3, 1, 2)


class _SumOverPositions(torch.autograd.Function):
    """Σ_s x[b, s, c]·m[s, t, c] → [b, t, c], without storing the product for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, between: Tensor) -> Tensor:
        ctx.save_for_backward(x, between)
        return (x[:, :, None] * between).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,), (x, between) = gradients, ctx.saved_tensors
        return (gradient[:, None] * between).sum(2), (x[:, :, None] * gradient[:, None]).sum(0)


def _tap_between(height: int, width: int, k: int) -> Tensor:
    """Return which of the k² kernel elements connects positions s and t, [S, S]; k² where none does."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y + k // 2, x[:, None] - x + k // 2
    reaches = (dy >= 0) & (dy < k) & (dx >= 0) & (dx < k)
    return torch.where(reaches, dy * k + dx, k * k)


def _is_slow_in_onednn(x: Tensor, weight: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dim() == 4 and not torch.is_autocast_enabled("cpu")
    return plain and max(x.shape[-2:]) < weight.shape[-1]


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    k = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.kernel_size == (k, k)
        and k % 2 == 1
        and k > 1
        and conv.padding == (k // 2, k // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )
