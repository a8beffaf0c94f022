"""Simulated rounding: a network computes with rounded weights and inputs while its parameters stay float32.

Layers change their class in place. Parameters, their names and their order stay, so optimisers, flat buffers,
averages and state dicts do not notice. Three buffers per layer are added where inputs are rounded.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.quantization.number_format import Format, rounds_inputs
from tkd_search.distill.quantization.rounding import input_grid, reach_of, round_input, round_weight
from tkd_search.distill.quantization.targets import Target, reads_inputs, targets_by_module
from tkd_search.distill.training.reduction import Reduction

MOMENTUM = 0.1
"""Share of a step's range in the moving range of inputs."""


@dataclass
class Switch:
    """What the layers of one network do; shared by them, and copied with the network.

    Attributes:
        weights: round weights.
        inputs: round inputs.
        observe: note how far inputs reach.
    """

    weights: bool = False
    inputs: bool = False
    observe: bool = False


def with_input(
    change: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a layer's call with its input changed, which may be named ``input``."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": change(kwargs["input"])}


class RoundedLayer(nn.Module):
    """Base of the classes that layers change into.

    Attributes:
        switch: shared by all layers of the network.
        target_of: the rounded parameters by name.
        input_reach: moving range of the inputs: how far below and above zero [2]; zeros until observed.
        input_scale, input_zero: the grid made from it.
        observed: the range since the last update [2].
    """

    switch: Switch
    target_of: dict[str, Target]
    input_reach: Tensor
    input_scale: Tensor
    input_zero: Tensor
    observed: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with rounded inputs and weights where the switch is on."""
        if "observed" in self._buffers:
            args, kwargs = with_input(self._rounded_input, args, kwargs)
        return super().forward(*args, **kwargs)

    def _rounded_input(self, inputs: Tensor) -> Tensor:
        if self.switch.observe:
            self.observed.copy_(torch.maximum(self.observed, reach_of(inputs)))
        if self.switch.inputs:
            return round_input(inputs, self.input_scale, self.input_zero)
        return inputs

    def rounded(self, name: str) -> Tensor | None:
        """Return the parameter ``name``, rounded where the switch is on."""
        weight = self._parameters[name]
        if weight is None or not self.switch.weights:
            return weight
        target = self.target_of[name]
        return round_weight(weight, target.bits, target.axis)


def simulate(network: nn.Module, format: Format) -> None:
    """Make every layer that the format rounds a simulated one, in place; switched off until ``set_rounding``.

    Call it before optimisers are built or state is loaded: with int8 the state dict has three more tensors a
    layer. Networks of floating-point formats stay as they are.
    """
    switch = Switch()
    for name, group in targets_by_module(network, format).items():
        module = network.get_submodule(name)
        become(module, RoundedLayer, tuple(group))
        module.switch, module.target_of = switch, group  # type: ignore[assignment]
        if rounds_inputs(format) and reads_inputs(module):
            _add_buffers(module, next(iter(module.parameters())).device)


def become(module: nn.Module, kind: type[nn.Module], parameters: tuple[str, ...]) -> None:
    """Change the class of a layer to ``kind`` above its own; ``kind.rounded`` then returns the parameters."""
    if _keep_slow not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_keep_slow)
    base: Any = _original(type(module))
    made: Any = kind
    module.__class__ = _class(made, base, parameters)


def plain(network: nn.Module) -> None:
    """Undo ``simulate``, in place: classes as they were, no buffers of ranges."""
    for module in _layers(network):
        module.__class__ = _original(type(module))  # type: ignore[assignment]
        for name in ("input_reach", "input_scale", "input_zero", "observed"):
            module._buffers.pop(name, None)
        module._non_persistent_buffers_set.discard("observed")
        del module.switch, module.target_of
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _keep_slow]:
            del module._forward_pre_hooks[key]


@contextlib.contextmanager
def original_classes(network: nn.Module) -> Iterator[None]:
    """Give simulated layers their own classes for a while, so that tools see parameters and not roundings."""
    kinds = {layer: type(layer) for layer in _layers(network)}
    for layer, kind in kinds.items():
        layer.__class__ = _original(kind)  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, kind in kinds.items():
            layer.__class__ = kind


def set_rounding(network: nn.Module, on: bool, *, inputs: bool | None = None) -> None:
    """Switch simulated rounding on or off; ``inputs``: that of inputs, as that of weights where None."""
    for switch in _switches(network):
        switch.weights, switch.inputs = on, on if inputs is None else inputs


def observe(network: nn.Module, on: bool) -> None:
    """Switch the observation of inputs on or off; on during the forward passes of training steps."""
    for switch in _switches(network):
        switch.observe = on


def update_ranges(network: nn.Module, reduction: Reduction | None = None) -> None:
    """Move the ranges of inputs towards what was observed since the last call; all ranks must call it.

    Args:
        network: a simulated network.
        reduction: over the workers; ranges are those of all ranks' rows together.

    The first observation counts whole.
    """
    layers = [layer for layer in _layers(network) if "observed" in layer._buffers]
    if not layers:
        return
    seen = torch.stack([layer.observed for layer in layers])
    if reduction is not None and reduction.size > 1:
        seen = reduction.gather(seen[None]).amax(0)
    reach = torch.stack([layer.input_reach for layer in layers])
    fresh = reach.sum(-1, keepdim=True) == 0
    reach = torch.where(fresh, seen, reach.lerp(seen, MOMENTUM))
    _set_ranges(layers, reach)
    torch._foreach_zero_([layer.observed for layer in layers])


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the ranges of inputs from images: the mean over batches of what each reaches.

    Weights are rounded meanwhile and inputs are not. The switch and the modes of the modules are put back.
    For networks that do not round inputs this does nothing.
    """
    layers = [layer for layer in _layers(network) if "observed" in layer._buffers]
    if not layers:
        return
    modes = {module: module.training for module in network.modules()}
    switch = layers[0].switch
    before = (switch.weights, switch.inputs, switch.observe)
    network.eval()
    switch.weights, switch.inputs, switch.observe = True, False, True
    total, count = torch.zeros(len(layers), 2), 0
    for images in batches:
        torch._foreach_zero_([layer.observed for layer in layers])
        network(images)
        total, count = total + torch.stack([layer.observed for layer in layers]).cpu(), count + 1
    _set_ranges(layers, (total / max(1, count)).to(layers[0].observed.device))
    torch._foreach_zero_([layer.observed for layer in layers])
    switch.weights, switch.inputs, switch.observe = before
    for module, mode in modes.items():
        module.training = mode


def input_grids(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return scale and zero point of every layer whose inputs are rounded, by name of module."""
    return {
        name: (module.input_scale, module.input_zero)
        for name, module in network.named_modules()
        if isinstance(module, RoundedLayer) and "observed" in module._buffers
    }


def _keep_slow(module: nn.Module, given: tuple[Any, ...]) -> None:
    """Do nothing: a hook keeps ``nn.TransformerEncoderLayer`` from a fast path that calls no layers."""


def _set_ranges(layers: list[RoundedLayer], reach: Tensor) -> None:
    scale, zero = input_grid(reach)
    torch._foreach_copy_([layer.input_reach for layer in layers], list(reach.unbind()))
    torch._foreach_copy_([layer.input_scale for layer in layers], list(scale.unbind()))
    torch._foreach_copy_([layer.input_zero for layer in layers], list(zero.unbind()))


def _add_buffers(module: nn.Module, device: torch.device) -> None:
    module.register_buffer("input_reach", torch.zeros(2, device=device))
    module.register_buffer("input_scale", torch.ones((), device=device))
    module.register_buffer("input_zero", torch.zeros((), dtype=torch.int32, device=device))
    module.register_buffer("observed", torch.zeros(2, device=device), persistent=False)


def _layers(network: nn.Module) -> list[RoundedLayer]:
    return [module for module in network.modules() if isinstance(module, RoundedLayer)]


def _switches(network: nn.Module) -> list[Switch]:
    return list({id(layer.switch): layer.switch for layer in _layers(network)}.values())


@cache
def _class(kind: Any, base: Any, parameters: tuple[str, ...]) -> Any:
    def reads(name: str) -> property:
        return property(lambda module: module.rounded(name))

    members: dict[str, Any] = {name: reads(name) for name in parameters}
    return type(f"{kind.__name__}{base.__name__}", (kind, base), {**members, "_original_class": base})


def _original(kind: type[nn.Module]) -> type[nn.Module]:
    found: type[nn.Module] = getattr(kind, "_original_class", kind)
    return found
