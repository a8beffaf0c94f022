"""Small inputs: how often a network made for 224 pixels a side may halve 8 to 64 pixels, and where.

torchvision's classifiers halve their input five times; 32 × 32 pixels would end as one place. The strides of
an existing network are lowered here, after it was built: names and shapes of its weights stay torchvision's.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from tkd_search.models.wiring import eval_mode

SMALL = 64
"""Inputs up to this many pixels a side get a small stem where the setting says ``auto``."""

_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def wants_small_stem(stem: str, size: int) -> bool:
    """Whether ``stem`` (auto | small | original) means the small one for images of ``size`` pixels."""
    return stem == "small" or (stem == "auto" and size <= SMALL)


def halvings(size: int) -> int:
    """How often to halve ``size`` pixels, so that about 4 × 4 places are left, 2 × 2 of 8 pixels.

    Local generated teachers compare big model and student on a 4 × 4 grid of places.
    """
    target = 4 if size >= 12 else 2
    return max(0, round(math.log2(size / target)))


def strided_levels(model: nn.Module, channels: int = 3, size: int = 224) -> list[list[str]]:
    """Names of the strided modules, grouped by the resolution they read, in order of execution.

    Modules of one group act side by side (a residual branch and its shortcut) and must change together.
    """
    levels: dict[int, list[str]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _STRIDED) and _stride(module) > 1:

            def note(
                module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor, name: str = name
            ) -> None:
                levels.setdefault(given[0].shape[-1], []).append(name)

            handles.append(module.register_forward_hook(note))
    anchor = next(model.parameters())
    try:
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(1, channels, size, size, device=anchor.device, dtype=anchor.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return list(levels.values())


def set_strides(model: nn.Module, levels: Sequence[Sequence[str]], strides: Sequence[int]) -> None:
    """Give every level of ``strided_levels`` its new stride, never above its own; in place.

    A max pool that no longer strides becomes an identity; a convolution that reads patches side by side
    (kernel = stride, no padding) reads smaller patches, or at stride 1 padded 3 × 3 ones.
    """
    for names, stride in zip(levels, strides, strict=True):
        for name in names:
            module = model.get_submodule(name)
            if stride < _stride(module):
                _replace(model, name, _with_stride(module, stride))


def fit_strides(
    model: nn.Module,
    size: int,
    *,
    order: Sequence[int] | None = None,
    channels: int = 3,
    probe_size: int = 224,
) -> None:
    """Keep as many strides as images of ``size`` pixels bear and drop the others; in place.

    Args:
        model: as torchvision builds it, for ``channels`` planes of ``probe_size`` pixels.
        size: side of the images it will see.
        order: positions of levels in the order in which they are kept; default: the latest first, which
            keeps most detail. Early ones first is faster.
        channels: planes the network reads now.
        probe_size: side at which its levels are told apart.
    """
    levels = strided_levels(model, channels, probe_size)
    full = [_stride(model.get_submodule(names[0])) for names in levels]
    left, strides = halvings(size), [1] * len(levels)
    for position in reversed(range(len(levels))) if order is None else order:
        used = min(left, round(math.log2(full[position])))
        strides[position] = 2**used
        left -= used
    set_strides(model, levels, strides)


def small_first_kernel(model: nn.Module) -> None:
    """Shrink a first convolution larger than 3 × 3 to 3 × 3, which is what small images want; in place."""
    name, conv = first_conv(model)
    if conv.kernel_size[0] > 3 and conv.kernel_size[0] > conv.stride[0]:
        _replace(model, name, _like(conv, kernel=3, stride=conv.stride[0], padding=1))


def set_input_channels(model: nn.Module, channels: int) -> None:
    """Make the first convolution read ``channels`` planes (1 for grey images); in place."""
    name, conv = first_conv(model)
    if conv.in_channels != channels:
        _replace(model, name, _like(conv, channels=channels))


def first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the first convolution.

    Raises:
        ValueError: the network has none.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError(f"{type(model).__name__} has no convolution whose input could be adapted")


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
    """A fresh convolution like ``conv`` with something changed, initialised as torchvision's are (He)."""
    made = nn.Conv2d(
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
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
