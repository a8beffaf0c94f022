"""Where the stages of a network end, told from its modules and the shapes of their outputs alone.

Written for plain chains (AlexNet, VGG: every convolution or linear layer is a stage and ends behind its
activation) and for networks of blocks (ResNet, EfficientNet, ConvNeXt, ViT: consecutive blocks with
outputs of one shape are a stage).
"""

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
_FEWEST = 4


@dataclass(frozen=True)
class _Unit:
    """A block, or a layer with the normalisation and activation behind it; ``name`` is where it ends."""

    name: str
    shape: tuple[int, ...]
    is_block: bool


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _repeats_blocks(module: nn.Module) -> bool:
    """Whether a list inside holds two or more blocks of one class: then the module is no block itself."""
    for inner in module.modules():
        if isinstance(inner, _CONTAINERS):
            kinds = [type(m) for m in inner if not _is_leaf(m) and not isinstance(m, _CONTAINERS)]
            if len(kinds) > len(set(kinds)):
                return True
    return False


def _units(module: nn.Module, prefix: str, found: dict[str, nn.Module], root: bool) -> None:
    """Collect blocks and leaves, by name, descending through wrappers and containers."""
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
    """Units in order of execution; what follows a layer without weights of its own moves the unit's end."""
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
    """The last of every run of units of one shape; runs of plain layers are kept unless ``plain_too``."""
    ends: list[_Unit] = []
    for unit in chain:
        same = bool(ends) and ends[-1].shape == unit.shape
        if same and (plain_too or unit.is_block or ends[-1].is_block):
            ends[-1] = unit
        else:
            ends.append(unit)
    return ends


def _thinned(units: list[_Unit], number: int) -> list[_Unit]:
    """So many units, evenly spread; the last is kept."""
    return [units[(i + 1) * len(units) // number - 1] for i in range(number)]


def places(shape: tuple[int, ...]) -> int:
    """H·W of a map [B, C, H, W] that has more than one row and column, else 0."""
    return shape[2] * shape[3] if len(shape) == 4 and min(shape[2:]) > 1 else 0


def map_ends(model: nn.Module, shapes: Shapes) -> list[str]:
    """Names of the modules that end with the last map of every size, in order of execution.

    Args:
        model: the network.
        shapes: output shape per module name, in order of execution; maps are [B, C, H, W] with H, W > 1.
    """
    maps = [unit for unit in _chain(model, shapes) if places(unit.shape)]
    last = {unit.shape[2:]: unit.name for unit in maps}
    return [unit.name for unit in maps if last[unit.shape[2:]] == unit.name]


def stage_ends(model: nn.Module, shapes: Shapes, *, most: int) -> list[str]:
    """Names of the modules at which the stages of a network end, at most ``most`` of them.

    Args:
        model: the network.
        shapes: output shape per module name, in order of execution.
        most: largest number wanted; more are first merged by shape, then thinned evenly (the last stays).
            Fewer than four (ViT: all blocks have one shape) become four of the units, evenly spread.

    The classifying layer is left out: its output is the logits, a tap of its own.
    """
    chain = _chain(model, shapes)
    if chain and len(chain[-1].shape) == 2:
        chain = chain[:-1]
    ends = _merged(chain, plain_too=False)
    if len(ends) > most:
        ends = _merged(chain, plain_too=True)
    if len(ends) > most:
        ends = _thinned(ends, most)
    if len(ends) < _FEWEST:
        ends = _thinned(chain, min(_FEWEST, most, len(chain)))
    return [unit.name for unit in ends]
