"""What one forward pass of a network shows: sides of maps, and operations that move channels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import logits_of
from tkd_search.models.module_roles import eval_mode

WRITERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers that write channels."""

_MOVES = {"transpose", "permute", "roll", "chunk", "split", "unbind", "flip", "index_select", "pixel_shuffle"}


@dataclass
class SeenPass:
    """What one forward pass showed.

    ``sides``: by the name of a layer the side of the smallest map until then. ``moves``: operations that move
    or split axes, each with the module it is in.
    """

    sides: dict[str, int] = field(default_factory=dict)
    moves: list[str] = field(default_factory=list)


def observe(network: nn.Module, example: Tensor) -> SeenPass:
    """Run a network once in eval mode and return what it showed; the mode is put back."""
    seen = SeenPass()
    with (
        eval_mode(network),
        torch.no_grad(),
        module_running(network) as running,
        _sides_noted(network, seen),
        _Moves(seen, running),
    ):
        logits_of(network(example))
    return seen


class _Moves(torch.overrides.TorchFunctionMode):
    def __init__(self, seen: SeenPass, running: list[str]) -> None:
        super().__init__()
        self.seen, self.running = seen, running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _MOVES:
            self.seen.moves.append(f"{name}() in {self.running[-1]}")
        return func(*args, **(kwargs or {}))


@contextmanager
def module_running(network: nn.Module) -> Iterator[list[str]]:
    """Give the names of the modules that run at a moment, the outermost first; an error leaves them."""
    running: list[str] = []

    def enter(module: nn.Module, given: Any) -> None:
        name = names[module]
        running.append(f"{name} ({type(module).__name__})" if name else type(module).__name__)

    def leave(module: nn.Module, given: Any, made: Any) -> None:
        running.pop()

    names = {module: name for name, module in network.named_modules()}
    handles = [module.register_forward_pre_hook(enter) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _sides_noted(network: nn.Module, seen: SeenPass) -> Iterator[None]:
    """Note, while a network runs, the side of its smallest map so far at each layer."""
    smallest = 1 << 30

    def note(module: nn.Module, given: Any, made: Any) -> None:
        nonlocal smallest
        if isinstance(made, Tensor) and made.dim() == 4 and made.shape[-1] > 1:
            smallest = min(smallest, made.shape[-1])
        seen.sides.setdefault(names[module], smallest)

    names: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, WRITERS)
    }
    handles = [module.register_forward_hook(note) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
