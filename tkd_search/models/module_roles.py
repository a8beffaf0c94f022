"""Finds the last layer of a classifier, its penultimate features h and the maps whose mean is h.

The modules are found from the tensors of one forward pass, so this works for any network. Shape letters: B
rows, c classes, d penultimate width, H' × W' positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import logits_of

_DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, nn.Dropout2d)


@dataclass(frozen=True)
class ModuleRoles:
    """Names of modules inside a classifier.

    ``head``: the last ``nn.Linear``, whose output is the logits; None if the network ends otherwise (its
    features are then the logits). ``features``: the module whose *input* is h [B, d]: the head, or the first
    of the dropouts directly before it, so that dropout does not change h. ``maps``: the module whose output
    [B, d, H', W'] has h as its mean over positions; None if there is none. ``width``: d. ``classes``: c.
    """

    head: str | None
    features: str | None
    maps: str | None
    width: int
    classes: int


@dataclass
class _Trace:
    """Tensors of one forward pass, in order of execution."""

    leaves: list[tuple[str, nn.Module, Tensor, Tensor]] = field(default_factory=list)
    maps: list[tuple[str, Tensor]] = field(default_factory=list)


def find_module_roles(model: nn.Module, example: Tensor) -> ModuleRoles:
    """Find the modules in one forward pass of ``example`` [B ≥ 2, C, H, W] in eval mode; restore the mode.

    On the meta device values cannot be compared, so ``maps`` is None.

    Raises:
        TypeError: the network returns no logits [B, c].
    """
    trace = _Trace()
    with eval_mode(model), torch.no_grad(), _traced(model, trace):
        logits = logits_of(model(example))
    if logits.dim() != 2:
        raise TypeError(f"a classifier must return logits [B, c]; found shape {list(logits.shape)}")
    classes = logits.shape[1]
    position = _head_position(trace, logits)
    if position is None:
        return ModuleRoles(None, None, _find_maps(trace, logits), classes, classes)
    head, _, features, _ = trace.leaves[position]
    first = position
    while first > 0 and _is_dropout(trace.leaves[first - 1], features):
        first -= 1
    return ModuleRoles(head, trace.leaves[first][0], _find_maps(trace, features), features.shape[1], classes)


def _head_position(trace: _Trace, logits: Tensor) -> int | None:
    for position in reversed(range(len(trace.leaves))):
        _, module, features, output = trace.leaves[position]
        if isinstance(module, nn.Linear) and features.dim() == 2 and _same(output, logits):
            return position
    return None


def _is_dropout(leaf: tuple[str, nn.Module, Tensor, Tensor], features: Tensor) -> bool:
    _, module, entering, _ = leaf
    return isinstance(module, _DROPOUTS) and entering.shape == features.shape


def _find_maps(trace: _Trace, features: Tensor) -> str | None:
    if features.is_meta:
        return None
    matching = [
        (maps.shape[2] * maps.shape[3], order, name)
        for order, (name, maps) in enumerate(trace.maps)
        if maps.shape[:2] == features.shape
        and maps.shape[2] * maps.shape[3] > 1
        and _same(maps.mean((2, 3)), features)
    ]
    return max(matching)[2] if matching else None


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    return left.is_meta or torch.allclose(left.float(), right.float(), rtol=1e-4, atol=1e-6)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode in a ``with`` block, then restore the mode of every module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _traced(model: nn.Module, trace: _Trace) -> Iterator[None]:
    def trace_module(name: str, leaf: bool, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def record(_: nn.Module, args: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor):
                return
            if output.dim() == 4:
                # A reference, because h may be the mean of the map after a later in-place activation.
                trace.maps.append((name, output))
            if leaf and args and isinstance(args[0], Tensor):
                trace.leaves.append((name, module, args[0], output))

        return module.register_forward_hook(record)

    handles = [
        trace_module(name, not any(module.children()), module) for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
