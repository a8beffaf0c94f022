"""Depthwise convolutions on maps smaller than their kernel, as sums over pairs of places.

oneDNN's backward pass leaves its fast path there: 3.5 ms for a 3 × 3 kernel on 2 × 2 places where 3 × 3 take
.5 ms (96 rows, 96 channels, one thread). Students for 8 × 8 images would spend half of their training so.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallMapDepthwise(nn.Conv2d):
    """A depthwise convolution that is quick in training on a CPU also where its kernel exceeds the map.

    The same parameters, names and values (up to rounding) as ``nn.Conv2d``. Evaluation, export, other devices
    and larger maps take PyTorch's own convolution.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or not _off_the_fast_path(input, weight):
            return super()._conv_forward(input, weight, bias)
        made = depthwise_on_small_map(input, weight)
        return made if bias is None else made + bias[:, None, None]


def quicken_depthwise(model: nn.Module) -> None:
    """Make every depthwise convolution that keeps its map's size a ``SmallMapDepthwise``; in place."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_plain_depthwise(module):
            module.__class__ = SmallMapDepthwise


def depthwise_on_small_map(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution, stride 1, padded to keep the size: [B, C, H, W] with [C, 1, k, k], k odd.

    Costs B·C·(H·W)² multiplications: for maps of few places.
    """
    rows, channels, height, width = x.shape
    taps = F.pad(weight.flatten(1), (0, 1)).t()
    between = taps[_tap_between(height, width, weight.shape[-1]).to(x.device)]
    places = x.permute(0, 2, 3, 1).reshape(rows, height * width, channels)
    made = cast(Tensor, _SumOverPlaces.apply(places, between))
    return made.view(rows, height, width, channels).permute(0, 3, 1, 2)


class _SumOverPlaces(torch.autograd.Function):
    """Σ_s x[b, s, c]·m[s, t, c] → [b, t, c]; autograd's own backward would keep the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, between: Tensor) -> Tensor:
        ctx.save_for_backward(x, between)
        return (x[:, :, None] * between).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,), (x, between) = gradients, ctx.saved_tensors
        return (gradient[:, None] * between).sum(2), (x[:, :, None] * gradient[:, None]).sum(0)


def _tap_between(height: int, width: int, k: int) -> Tensor:
    """Which of the k² taps leads from place s to place t, [S, S]; k² (a zero) where none does."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y + k // 2, x[:, None] - x + k // 2
    reaches = (dy >= 0) & (dy < k) & (dx >= 0) & (dx < k)
    return torch.where(reaches, dy * k + dx, k * k)


def _off_the_fast_path(x: Tensor, weight: Tensor) -> bool:
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
