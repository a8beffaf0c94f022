"""The tensors and axes of a layer that hold its channels, and its attributes that count them."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from tkd_search.models.cuts.channel_groups import UncuttableError, Use

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
Axis = tuple[str, int, int, Use, int]


def tensor_axes(node: Any, writes: bool, name: str) -> Iterator[Axis]:
    """Yield (tensor, axis, length, use, groups) of a node of torch-pruning's graph.

    Args:
        node: a layer, a parameter or an operation; operations hold no tensors.
        writes: whether its output channels are meant, not its input channels.
        name: the layer's or the parameter's dotted name.

    Raises:
        UncuttableError: a layer with channels that is not known here.
    """
    layer = node.module
    if isinstance(layer, nn.Parameter):
        axis = node.pruning_dim % layer.dim()
        yield name, axis, layer.shape[axis], "each", 1
    elif name:
        yield from ((f"{name}.{tensor}", *rest) for tensor, *rest in _layer_axes(layer, writes, name))


def _layer_axes(layer: nn.Module, writes: bool, name: str) -> Iterator[Any]:
    if isinstance(layer, _CONVS):
        yield from _conv_axes(layer, writes)
    elif isinstance(layer, nn.Linear):
        yield "weight", 0 if writes else 1, layer.weight.shape[0 if writes else 1], _use(writes), 1
        if writes and layer.bias is not None:
            yield "bias", 0, layer.out_features, "writes", 1
    elif isinstance(layer, _NORMS):
        yield from _norm_axes(layer, name)
    elif isinstance(layer, nn.PReLU):
        if layer.num_parameters > 1:
            yield "weight", 0, layer.num_parameters, "each", 1
    elif any(True for _ in layer.parameters(recurse=False)):
        raise UncuttableError(f"{name} ({type(layer).__name__}): a layer of unknown channels")


def _use(writes: bool) -> Use:
    return "writes" if writes else "reads"


def _conv_axes(layer: Any, writes: bool) -> Iterator[Any]:
    each = is_depthwise(layer)
    use: Use = "each" if each else _use(writes)
    groups = 1 if each else layer.groups
    axis = 0 if writes or each else 1
    yield "weight", axis, layer.weight.shape[axis], use, groups
    if axis == 0 and layer.bias is not None:
        yield "bias", 0, layer.out_channels, use, groups


def _norm_axes(layer: Any, name: str) -> Iterator[Any]:
    groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else 1
    tensors = [
        one
        for one in ("weight", "bias", "running_mean", "running_var")
        if getattr(layer, one, None) is not None
    ]
    if "weight" not in tensors and not isinstance(layer, nn.modules.batchnorm._BatchNorm):
        raise UncuttableError(f"{name} ({type(layer).__name__}): a normalisation without weights")
    for tensor in tensors:
        held = getattr(layer, tensor)
        yield tensor, held.dim() - 1, held.shape[-1], "each", groups


def is_depthwise(layer: Any) -> bool:
    """Return whether a convolution reads and writes each channel by itself."""
    return layer.groups == layer.in_channels == layer.out_channels > 1


def count_channels(layer: nn.Module) -> None:
    """Set the attributes of a layer that count its channels from the shapes of its tensors; in place."""
    counts: dict[str, Any] = {}
    if isinstance(layer, _CONVS):
        written, read = layer.weight.shape[:2]
        groups = written if is_depthwise(layer) else layer.groups
        counts = {"out_channels": written, "in_channels": read * groups, "groups": groups}
    elif isinstance(layer, nn.Linear):
        counts = {"out_features": layer.weight.shape[0], "in_features": layer.weight.shape[1]}
    elif isinstance(layer, nn.GroupNorm):
        counts = {"num_channels": len(layer.weight)}
    elif isinstance(layer, nn.LayerNorm):
        counts = {"normalized_shape": tuple(layer.weight.shape)}
    elif isinstance(layer, nn.PReLU):
        counts = {"num_parameters": len(layer.weight)}
    elif isinstance(layer, _NORMS):
        held: Any = layer.weight if layer.weight is not None else layer.running_mean
        counts = {} if held is None else {"num_features": len(held)}
    for name, value in counts.items():
        setattr(layer, name, value)
