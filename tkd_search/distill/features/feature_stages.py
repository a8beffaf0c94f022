"""Stages of a network, found from its modules and the shapes of their outputs alone.

In plain chains (AlexNet, VGG) every convolution or linear layer is a stage and ends after its activation. In
networks of blocks (ResNet, EfficientNet, ConvNeXt, ViT) consecutive blocks with outputs of one shape are a
stage.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

Shapes = Mapping[str, tuple[int, ...]]

_SKIPPED = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Identity,
    nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_MIN_STAGES = 4
_MAX_EXTRA_TOKENS = 5


@dataclass(frozen=True)
class _Unit:
    """A block, or a layer with the normalisation and activation after it; ``name`` is its last module."""

    name: str
    shape: tuple[int, ...]
    is_block: bool


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _repeats_blocks(module: nn.Module) -> bool:
    """Return whether a container inside holds two blocks of one class; such a module is no block itself."""
    for inner in module.modules():
        if isinstance(inner, _CONTAINERS):
            kinds = [type(m) for m in inner if not _is_leaf(m) and not isinstance(m, _CONTAINERS)]
            if len(kinds) > len(set(kinds)):
                return True
    return False


def _units(module: nn.Module, prefix: str, found: dict[str, nn.Module], root: bool) -> None:
    """Collect blocks and leaves by name, descending through wrappers and containers."""
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    with_weights = [name for name, child in children if next(child.parameters(), None) is not None]
    for name, child in children:
        wrapped = root and with_weights == [name] and not _is_leaf(child)
        if _is_leaf(child):
            found[name] = child
        elif wrapped or isinstance(child, _CONTAINERS) or _repeats_blocks(child):
            _units(child, f"{name}.", found, wrapped)
        else:
            found[name] = child


def _chain(model: nn.Module, shapes: Shapes) -> list[_Unit]:
    """Return the units in order of execution; modules without weights belong to the layer before them."""
    modules: dict[str, nn.Module] = {}
    _units(model, "", modules, True)
    chain: list[_Unit] = []
    for name, shape in shapes.items():
        module = modules.get(name)
        if module is None or isinstance(module, _SKIPPED):
            continue
        if not _is_leaf(module) or isinstance(module, _LAYERS):
            chain.append(_Unit(name, shape, not _is_leaf(module)))
        elif chain and not chain[-1].is_block and chain[-1].shape == shape:
            chain[-1] = _Unit(name, shape, False)
    return chain


def _merged(chain: list[_Unit], plain_too: bool) -> list[_Unit]:
    """Return the last of every run of units of one shape; merge plain layers only if ``plain_too``."""
    ends: list[_Unit] = []
    for unit in chain:
        same = bool(ends) and ends[-1].shape == unit.shape
        if same and (plain_too or unit.is_block or ends[-1].is_block):
            ends[-1] = unit
        else:
            ends.append(unit)
    return ends


def _thinned(units: list[_Unit], number: int) -> list[_Unit]:
    """Return ``number`` units, evenly spread; the last is kept."""
    return [units[(i + 1) * len(units) // number - 1] for i in range(number)]


def map_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return (H, W) of a map [B, C, H, W], or of the grid of patch tokens [B, T, C], if both are above 1."""
    if len(shape) == 3:
        side = patch_side(shape[1])
        return (side, side) if side else None
    return (shape[2], shape[3]) if len(shape) == 4 and min(shape[2:]) > 1 else None


def patch_side(tokens: int) -> int:
    """Return the side n ≥ 2 of a square grid of patches among tokens, or 0.

    A vision transformer has n² patch tokens after its class and register tokens, of which there are 5 at most
    (timm's networks with one class and four register tokens).
    """
    for patches in range(tokens, max(tokens - _MAX_EXTRA_TOKENS, 4) - 1, -1):
        if math.isqrt(patches) ** 2 == patches:
            return math.isqrt(patches)
    return 0


def map_ends(model: nn.Module, shapes: Shapes) -> list[str]:
    """Return the names of the modules that output the last map of every size, in order of execution.

    Args:
        model: the network.
        shapes: output shape per module name, in order of execution; maps as :func:`map_size` finds them.
    """
    maps = [unit for unit in _chain(model, shapes) if map_size(unit.shape)]
    last = {map_size(unit.shape): unit.name for unit in maps}
    return [unit.name for unit in maps if last[map_size(unit.shape)] == unit.name]


def stage_ends(model: nn.Module, shapes: Shapes, *, limit: int) -> list[str]:
    """Return the names of the modules at which the stages of a network end, at most ``limit`` of them.

    Args:
        model: the network.
        shapes: output shape per module name, in order of execution.
        limit: maximum number of stages. If there are more, they are merged by shape, then thinned evenly; the
            last is kept. If there are fewer than four (ViT: all blocks have one shape), four of the units,
            evenly spread, are returned.

    The last layer is left out: its output is the logits, a tap of their own.
    """
    chain = _chain(model, shapes)
    if chain and len(chain[-1].shape) == 2:
        chain = chain[:-1]
    ends = _merged(chain, plain_too=False)
    if len(ends) > limit:
        ends = _merged(chain, plain_too=True)
    if len(ends) > limit:
        ends = _thinned(ends, limit)
    if len(ends) < _MIN_STAGES:
        ends = _thinned(chain, min(_MIN_STAGES, limit, len(chain)))
    return [unit.name for unit in ends]
