"""Adapts the strides of networks built for 224 pixels a side to images of 8 to 64 pixels.

torchvision's classifiers halve their input five times, which reduces 32 × 32 pixels to one position. The
functions here lower the strides of an existing network; names and shapes of its weights stay torchvision's.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from tkd_search.models.module_roles import eval_mode

MAX_SMALL_SIZE = 64
"""Largest side in pixels for which the stem ``auto`` is the small one."""

_PROBE_SIZE = 224
"""Side in pixels of the image that determines the levels."""

_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def wants_small_stem(stem: str, size: int) -> bool:
    """Return whether ``stem`` (auto | small | original) is the small stem for images of ``size`` pixels."""
    return stem == "small" or (stem == "auto" and size <= MAX_SMALL_SIZE)


def halvings(size: int) -> int:
    """Return how often to halve ``size`` pixels to reach about 4 × 4 positions, or 2 × 2 under 12 pixels.

    Local generated teachers compare big model and student on a 4 × 4 grid.
    """
    target = 4 if size >= 12 else 2
    return max(0, round(math.log2(size / target)))


def strided_levels(model: nn.Module, channels: int = 3) -> list[list[str]]:
    """Return the names of strided modules, grouped by their input resolution, in order of execution.

    Modules of one group are parallel (a residual branch and its shortcut) and must change together.
    """
    levels: dict[int, list[str]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _STRIDED) and _stride(module) > 1:

            def record(
                module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor, name: str = name
            ) -> None:
                levels.setdefault(args[0].shape[-1], []).append(name)

            handles.append(module.register_forward_hook(record))
    first = next(model.parameters())
    try:
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(1, channels, _PROBE_SIZE, _PROBE_SIZE, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return list(levels.values())


def set_strides(model: nn.Module, levels: Sequence[Sequence[str]], strides: Sequence[int]) -> None:
    """Set the stride of every level of ``strided_levels``, in place; strides are lowered, never raised.

    A pool with stride 1 becomes an identity. A convolution on adjacent patches (kernel = stride, no padding)
    gets smaller patches, or at stride 1 a padded 3 × 3 kernel.
    """
    for names, stride in zip(levels, strides, strict=True):
        for name in names:
            module = model.get_submodule(name)
            if stride < _stride(module):
                model.set_submodule(name, _with_stride(module, stride))


def fit_strides(
    model: nn.Module, size: int, *, order: Sequence[int] | None = None, channels: int = 3
) -> None:
    """Keep as many strides as images of ``size`` pixels allow and drop the others, in place.

    Args:
        model: a network of torchvision for images with ``channels`` channels and 224 pixels a side.
        size: side in pixels of the images that it will get.
        order: positions of levels in the order in which they are kept; default: the last first, which keeps
            most detail. The first first is faster.
        channels: input channels of the network.
    """
    levels = strided_levels(model, channels)
    full = [_stride(model.get_submodule(names[0])) for names in levels]
    left, strides = halvings(size), [1] * len(levels)
    for position in reversed(range(len(levels))) if order is None else order:
        used = min(left, round(math.log2(full[position])))
        strides[position] = 2**used
        left -= used
    set_strides(model, levels, strides)


def small_first_kernel(model: nn.Module) -> None:
    """Replace a first convolution larger than 3 × 3 by a 3 × 3 one, in place."""
    name, conv = first_conv(model)
    if conv.kernel_size[0] > 3 and conv.kernel_size[0] > conv.stride[0]:
        model.set_submodule(name, _like(conv, kernel=3, stride=conv.stride[0], padding=1))


def set_input_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one with ``channels`` input channels (1 for grey images), in place."""
    name, conv = first_conv(model)
    if conv.in_channels != channels:
        model.set_submodule(name, _like(conv, channels=channels))


def first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return name and module of the first convolution.

    Raises:
        ValueError: the network has no convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError(f"{type(model).__name__} has no convolution, so its input channels cannot change")


def _stride(module: nn.Module) -> int:
    stride = module.stride
    return int(stride[0] if isinstance(stride, tuple) else stride)  # type: ignore[arg-type]


def _with_stride(module: nn.Module, stride: int) -> nn.Module:
    if not isinstance(module, nn.Conv2d):
        return nn.Identity()
    if module.kernel_size[0] % 2 == 0 and module.kernel_size[0] == module.stride[0]:
        if stride == 1:
            return _like(module, kernel=3, stride=1, padding=1)
        return _like(module, kernel=stride, stride=stride)
    module.stride = (stride, stride)
    return module


def _like(
    conv: nn.Conv2d,
    *,
    channels: int | None = None,
    kernel: int | None = None,
    stride: int | None = None,
    padding: int | None = None,
) -> nn.Conv2d:
    """Return a new convolution with the given changes to ``conv``, initialised as in torchvision (He)."""
    new = nn.Conv2d(
        conv.in_channels if channels is None else channels,
        conv.out_channels,
        conv.kernel_size if kernel is None else kernel,  # type: ignore[arg-type]
        conv.stride if stride is None else stride,  # type: ignore[arg-type]
        conv.padding if padding is None else padding,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new
