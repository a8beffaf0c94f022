"""Strided 1 × 1 convolutions of few channels, as a slice and a convolution without stride.

On CPUs with AVX-512, oneDNN's backward pass for the weights of such a convolution ends the process (SIGSEGV,
torch 2.13) where images lie channels last, channels are fewer than 16 and maps larger than about 50 × 50: the
shortcuts of narrow ResNets on images of 224 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SAFE_CHANNELS = 16


class SlicedPointwise(nn.Conv2d):
    """A strided 1 × 1 convolution that leaves out in its input what it would leave out in its output.

    The same parameters, names and values as ``nn.Conv2d``; evaluation, export and other devices take
    PyTorch's own.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        down, right = self.stride
        kept = input[..., ::down, ::right].contiguous(memory_format=torch.channels_last)
        return F.conv2d(kept, weight, bias, groups=self.groups)


def slice_pointwise(model: nn.Module) -> None:
    """Make every strided 1 × 1 convolution of few channels a ``SlicedPointwise``; in place."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.padding == (0, 0)
            and module.in_channels < _SAFE_CHANNELS
        ):
            module.__class__ = SlicedPointwise
