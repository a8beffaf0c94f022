"""Storage of learning parameters in one buffer.

A MobileNetV2 has 158 parameters, and schedule-free AdamW launches eight kernels for each: an optimiser step
over that many small tensors costs more than its arithmetic. In one buffer the parameters of an optimiser are
one tensor, and the gradients of all optimisers are averaged over workers by one collective, in place.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

_ALIGNMENT = 16
"""Elements to which every parameter is aligned: 64 bytes in float32, a cache line and a vector register."""

Groups = Sequence[Sequence[nn.Parameter]]


class ParameterStorage(Protocol):
    """How groups of parameters are stored for their optimisers.

    Attributes:
        groups: the parameters to give to each group's optimiser.
    """

    groups: list[list[nn.Parameter]]

    def gradients(self) -> list[Tensor]:
        """Return all gradients of all groups, to be averaged over workers in place."""
        ...

    def zero_grad(self) -> None:
        """Reset the gradients of all groups."""
        ...

    def unpack(self, values: Sequence[Tensor], group: int) -> list[Tensor]:
        """Return one value per original parameter from one value per parameter in ``groups[group]``."""
        ...


def store(groups: Groups) -> ParameterStorage:
    """Return flat storage where types and devices allow it, separate storage otherwise."""
    return FlatParameters(groups) if can_be_flat(groups) else SeparateParameters(groups)


def can_be_flat(groups: Groups) -> bool:
    """Return whether all parameters have one type and one device, and there is at least one."""
    return len({(p.dtype, p.device) for group in groups for p in group}) == 1


class FlatParameters:
    """Parameters and gradients as views of two buffers; each group is one parameter for its optimiser.

    Args:
        groups: parameters of one type on one device (see ``can_be_flat``). The data and gradient of each are
            replaced by views that keep its memory format. Gradients must be zeroed in place, never set to
            None. Weight decay also applies to a parameter that gets no gradient.
    """

    def __init__(self, groups: Groups) -> None:
        self._members = [list(group) for group in groups]
        sizes = [sum(map(_aligned_size, group)) for group in self._members]
        first = next(parameter for group in self._members for parameter in group)
        values = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        self._gradients = torch.zeros_like(values)
        self.groups = []
        parts = zip(self._members, values.split(sizes), self._gradients.split(sizes), strict=True)
        for members, data, gradient in parts:
            whole = nn.Parameter(data)
            whole.grad = gradient
            self.groups.append([whole])
            views = zip(members, _views(data, members), _views(gradient, members), strict=True)
            for parameter, view, grad in views:
                view.copy_(parameter.detach())
                parameter.data, parameter.grad = view, grad

    def gradients(self) -> list[Tensor]:
        """Return the one buffer of all gradients."""
        return [self._gradients]

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        self._gradients.zero_()

    def unpack(self, values: Sequence[Tensor], group: int) -> list[Tensor]:
        """Return views of a buffer like ``groups[group][0]`` in the parameters' shapes and strides."""
        return list(_views(values[0], self._members[group]))


class SeparateParameters:
    """Parameters as they are, for groups of several types or devices.

    Args:
        groups: the parameters of each optimiser.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = [list(group) for group in groups]

    def gradients(self) -> list[Tensor]:
        """Return the gradient of every parameter that has one."""
        return [p.grad for group in self.groups for p in group if p.grad is not None]

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for group in self.groups:
            for parameter in group:
                parameter.grad = None

    def unpack(self, values: Sequence[Tensor], group: int) -> list[Tensor]:
        """Return the values unchanged."""
        return list(values)


def _aligned_size(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT


def _views(buffer: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """Cut a buffer into tensors of the parameters' shapes and strides."""
    parts = buffer.split([_aligned_size(parameter) for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        yield part.as_strided(parameter.shape, _dense_strides(parameter))


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor without holes, in its own order of axes."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        _, channels, height, width = tensor.shape
        return (channels * height * width, 1, channels * width, channels)
    strides, step = [], 1
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
