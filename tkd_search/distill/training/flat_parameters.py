"""Many parameters as one: an optimiser's step over 160 small tensors costs more than the arithmetic.

A MobileNetV2 has 158 parameters; schedule-free AdamW launches eight kernels for each. Laid end to end in
one buffer they are one parameter, and averaging gradients over workers is one collective without copies.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

_ALIGNED = 16
"""Elements to which every parameter is aligned: 64 bytes in float32, a cache line and a vector register."""


class FlatParameters:
    """Parameters and their gradients as views of two buffers.

    Args:
        parameters: of one type on one device; each one's data and gradient are replaced by views, with its
            memory format kept. Gradients must be zeroed in place from now on, never set to None. A
            parameter that gets no gradient still feels weight decay.

    Attributes:
        whole: the one parameter for an optimiser.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        first = self._parameters[0]
        self._starts, end = [], 0
        for parameter in self._parameters:
            self._starts.append(end)
            end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
        self.whole = nn.Parameter(torch.zeros(end, dtype=first.dtype, device=first.device))
        self.whole.grad = torch.zeros_like(self.whole)
        for parameter, view, grad in zip(
            self._parameters, self.views(self.whole.detach()), self.views(self.whole.grad), strict=True
        ):
            view.copy_(parameter.detach())
            parameter.data, parameter.grad = view, grad

    def views(self, buffer: Tensor) -> Iterator[Tensor]:
        """A buffer like ``whole`` cut into tensors of the parameters' shapes and strides."""
        for parameter, start in zip(self._parameters, self._starts, strict=True):
            yield buffer.as_strided(parameter.shape, _dense_strides(parameter), start)

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        if self.whole.grad is not None:
            self.whole.grad.zero_()


def can_be_flat(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether parameters have one type and one device, and there are any."""
    return len({(p.dtype, p.device) for p in parameters}) == 1


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides of a tensor without holes, in its own order of axes."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        _, channels, height, width = tensor.shape
        return (channels * height * width, 1, channels * width, channels)
    strides, step = [], 1
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
