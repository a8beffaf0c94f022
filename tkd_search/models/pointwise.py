"""Strided 1 × 1 convolutions with few channels, computed as a slice and a convolution without stride.

On CPUs with AVX-512, oneDNN's backward pass for the weights of such a convolution crashes the process
(SIGSEGV, torch 2.13) with images in channels-last format, fewer than 16 channels and maps larger than about
50 × 50. The shortcuts of narrow ResNets are such convolutions for images of 224 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SAFE_CHANNELS = 16


class SlicedPointwise(nn.Conv2d):
    """A strided 1 × 1 convolution that slices its input by the stride before it convolves.

    Parameters, names and values are those of ``nn.Conv2d``. Evaluation, export and other devices use
    PyTorch's convolution.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        down, right = self.stride
        kept = input[..., ::down, ::right].contiguous(memory_format=torch.channels_last)
        return F.conv2d(kept, weight, bias, groups=self.groups)


def slice_pointwise(model: nn.Module) -> None:
    """Replace every strided 1 × 1 convolution with few channels by a ``SlicedPointwise``, in place."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.padding == (0, 0)
            and module.in_channels < _SAFE_CHANNELS
        ):
            module.__class__ = SlicedPointwise
