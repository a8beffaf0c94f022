"""Which weights of a network are rounded, and to how many bits."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tkd_search.distill.quantization.number_format import Format, rounds_weights

FEW_WEIGHTS = 32
"""Channels of fewer weights than this (depthwise convolutions) have 8 bits in the format int4."""

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Target:
    """A weight that is rounded: a parameter of a module, with its output channels along ``axis``."""

    module: str
    parameter: str
    axis: int
    bits: int


def targets(network: nn.Module, format: Format) -> Iterator[Target]:
    """Yield the rounded weights of every convolution, linear layer and attention, in order of definition.

    All other parameters (biases, norms, embeddings) and buffers stay floating-point.
    """
    if not rounds_weights(format):
        return
    for name, module in network.named_modules():
        for parameter, axis in _weights(module):
            weight = module._parameters.get(parameter)
            if weight is not None and weight.is_floating_point():
                yield Target(name, parameter, axis, _bits(weight, axis, format))


def targets_by_module(network: nn.Module, format: Format) -> dict[str, dict[str, Target]]:
    """Return the targets of every module that has some: names of modules → names of parameters → targets."""
    found: dict[str, dict[str, Target]] = {}
    for target in targets(network, format):
        found.setdefault(target.module, {})[target.parameter] = target
    return found


def unrounded(network: nn.Module, format: Format) -> dict[str, int]:
    """Return the weights that the format does not round, each with its number of values.

    Weights are parameters of two or more dimensions: of layers that are no convolution, linear layer or
    attention, and embeddings. They ship in fp16. Empty for formats of floating point.
    """
    if not rounds_weights(format):
        return {}
    rounded = {id(network.get_submodule(t.module)._parameters[t.parameter]) for t in targets(network, format)}
    return {
        name: weight.numel()
        for name, weight in network.named_parameters()
        if weight.dim() > 1 and id(weight) not in rounded
    }


def reads_inputs(module: nn.Module) -> bool:
    """Return whether a layer has one input that int8 rounds: convolutions and linear layers.

    Attention multiplies by its weights without calling its layers, so its inputs are not rounded.
    """
    return isinstance(module, _ConvNd | nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


def _weights(module: nn.Module) -> Iterator[tuple[str, int]]:
    if isinstance(module, _ConvNd | nn.Linear):
        yield "weight", 1 if isinstance(module, _ConvTransposeNd) else 0
    elif isinstance(module, nn.MultiheadAttention):
        yield from ((name, 0) for name in _ATTENTION)


def _bits(weight: Tensor, axis: int, format: Format) -> int:
    few = weight.numel() // weight.shape[axis] < FEW_WEIGHTS
    return 4 if format == "int4" and not few else 8
