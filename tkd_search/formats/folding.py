"""Batch norm folded into the layer before it by torch's own fusion, where the graph shows it is exact."""

import copy
from collections import Counter
from typing import Any, cast

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from tkd_search.distill.quantization.simulation import original_classes
from tkd_search.models.module_roles import eval_mode

_LIBRARY_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


class ScaleShift(nn.Module):
    """What a batch norm computes in eval mode: a scale and a shift per channel.

    Args:
        weight: scale [C].
        bias: shift [C].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs [B, C, …] scaled and shifted."""
        shape = (-1, *(1,) * (inputs.dim() - 2))
        return inputs * self.weight.view(shape) + self.bias.view(shape)


def find_folds(network: nn.Module) -> dict[str, str]:
    """Return which batch norm is folded into which layer: names of layers → names of batch norms.

    A pair is found where the layer's output goes into the batch norm and nowhere else, both run once, and no
    other layer has the layer's weights. Parts that ``torch.fx`` cannot trace are searched part by part; batch
    norms that stand alone there are not folded. Works on the meta device: no weight is read.
    """
    with eval_mode(network), original_classes(network):
        pairs = _pairs(network, "")
    names = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    owners = Counter(
        id(parameter)
        for module in network.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )

    def alone(name: str) -> bool:
        module = network.get_submodule(name)
        own = [p for p in module._parameters.values() if p is not None]
        return names[id(module)] == 1 and all(owners[id(p)] == 1 for p in own)

    return {layer: norm for layer, norm in pairs.items() if alone(layer) and alone(norm)}


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Return a copy without batch norms, in eval mode, that computes the same up to the rounding of floats.

    A batch norm that cannot be folded becomes a ``ScaleShift``. Batch norms without running statistics stay:
    they normalise by the batch in eval mode too. Simulated layers stay simulated, their parameters are what
    is folded.
    """
    folds = find_folds(network)
    folded = copy.deepcopy(network).eval()
    for layer, norm in folds.items():
        _fold(folded.get_submodule(layer), folded.get_submodule(norm))
        folded.set_submodule(norm, _rest(folded.get_submodule(norm)))
    for name, module in list(folded.named_modules(remove_duplicate=False)):
        if is_tracked(module):
            folded.set_submodule(name, _rest(module, _scale_shift(module)))
    return folded


def is_tracked(module: nn.Module) -> bool:
    """Return whether a module is a batch norm that uses running statistics in eval mode.

    A batch norm with layers inside counts only if it is timm's, which ends with a dropout and an activation.
    """
    if not isinstance(module, _BatchNorm) or module.running_mean is None:
        return False
    return [name for name, _ in module.named_children()] in ([], ["drop", "act"])


def _rest(norm: nn.Module, first: nn.Module | None = None) -> nn.Module:
    """Return ``first`` (default: nothing) and then the layers inside a batch norm."""
    layers = [*([first] if first is not None else []), *norm.children()]
    if not layers:
        return nn.Identity()
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class _Tracer(fx.Tracer):
    """Records layers and batch norms as calls, subclasses too."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, _ConvNd | nn.Linear | _BatchNorm) or super().is_leaf_module(
            module, qualified_name
        )


def _pairs(module: nn.Module, prefix: str) -> dict[str, str]:
    """Return the pairs of a module whose name is ``prefix``; of its children where it cannot be traced."""
    if not any(is_tracked(part) for part in module.modules()) or is_tracked(module):
        return {}
    try:
        graph = _Tracer().trace(module)
    except Exception:  # a user's forward pass may fail in any way on symbols
        pairs: dict[str, str] = {}
        for name, child in module.named_children():
            pairs.update(_pairs(child, f"{prefix}{name}."))
        return pairs
    return {f"{prefix}{layer}": f"{prefix}{norm}" for layer, norm in _pairs_of(module, graph).items()}


def _pairs_of(module: nn.Module, graph: fx.Graph) -> dict[str, str]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    runs = Counter(node.target for node in calls)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    pairs = {}
    for node in calls:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        layer, norm = str(source.target), str(node.target)
        once = runs[source.target] == runs[node.target] == 1
        free = not any(name.startswith(f"{layer}.") for name in read)
        if once and free and _can_fold(module.get_submodule(layer), module.get_submodule(norm)):
            pairs[layer] = norm
    return pairs


def _can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    if not is_tracked(norm) or layer._parameters.get("weight") is None or not _uses_weight_itself(layer):
        return False
    if isinstance(layer, _ConvTransposeNd):
        return layer.groups == 1 and layer.out_channels == norm.num_features
    if isinstance(layer, _ConvNd):
        return layer.out_channels == norm.num_features
    # A batch norm of [B, L, C] normalises L: it is told apart from one of [B, C] by its size alone.
    return isinstance(layer, nn.Linear) and layer.out_features == norm.num_features


def _uses_weight_itself(layer: nn.Module) -> bool:
    """Return whether a layer's output is proportional to its weight.

    A subclass with a forward pass of its own may standardise the weight first, as timm's ``StdConv2d`` does;
    scaling the weight then changes nothing. Tried on one image with made-up weights on the CPU, because the
    layer itself may be on the meta device.
    """
    if type(layer).forward in (base.forward for base in _LIBRARY_LAYERS):
        return True
    tried: Any = copy.deepcopy(layer).to("meta").to_empty(device="cpu").float()
    for tensor in (*tried.parameters(), *tried.buffers()):  # not zeros, which hide what is done to the weight
        tensor.data.fill_(1)
    weight = torch.linspace(-1, 1, tried.weight.numel()).reshape(tried.weight.shape)
    bias = None if tried.bias is None else torch.zeros_like(tried.bias)
    side = [4 * size for size in getattr(tried, "kernel_size", ())]
    inputs = torch.ones(1, tried.in_channels if side else tried.in_features, *side)

    def output(scale: float) -> Tensor:
        tried._parameters["weight"], tried._parameters["bias"] = scale * weight, bias
        return cast(Tensor, tried(inputs))

    try:
        with torch.no_grad():
            return torch.allclose(output(3.0), 3 * output(1.0), rtol=1e-4, atol=1e-4)
    except Exception:  # a user's forward pass may fail in any way on these inputs
        return False


def _fold(layer: nn.Module, norm: Any) -> None:
    scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    statistics = (norm.running_mean, norm.running_var, norm.eps, scale, shift)
    # Not layer.weight: that of a simulated layer is rounded.
    weight: Any = layer._parameters["weight"]
    bias: Any = layer._parameters["bias"]
    if isinstance(layer, nn.Linear):
        made = fuse_linear_bn_weights(weight, bias, *statistics)
    else:
        made = fuse_conv_bn_weights(weight, bias, *statistics, transpose=isinstance(layer, _ConvTransposeNd))
    layer._parameters["weight"], layer._parameters["bias"] = made


@torch.no_grad()
def _scale_shift(norm: Any) -> ScaleShift:
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return ScaleShift(scale, shift if norm.bias is None else shift + norm.bias)
