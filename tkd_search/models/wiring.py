"""Where a classifier keeps its last layer, its penultimate features h and the maps whose mean is h.

Found by running one small batch and looking, so that any network works, not those alone that were foreseen.
Shape letters: B rows, c classes, d penultimate width, H' × W' places.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import logits_of

_DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, nn.Dropout2d)


@dataclass(frozen=True)
class Wiring:
    """Names of modules inside a classifier.

    ``head``: the last ``nn.Linear``, whose output is the logits; None where the network ends otherwise (then
    the logits stand for the features). ``features``: the module whose *input* is h [B, d]: the head, or the
    first of the dropouts right before it, so that h is never a dropped-out one. ``maps``: the module whose
    output [B, d, H', W'] has h as its mean over places; None where there is none. ``width``: d.
    """

    head: str | None
    features: str | None
    maps: str | None
    width: int
    classes: int


@dataclass
class _Trace:
    """What one forward pass showed, in order of execution."""

    leaves: list[tuple[str, nn.Module, Tensor, Tensor]] = field(default_factory=list)
    planes: list[tuple[str, Tensor]] = field(default_factory=list)


def find_wiring(model: nn.Module, example: Tensor) -> Wiring:
    """Look at one forward pass of ``example`` [B ≥ 2, C, H, W] in eval mode (the mode is put back).

    On the meta device values cannot be compared, so ``maps`` is None there.

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
        return Wiring(None, None, _find_maps(trace, logits), classes, classes)
    head, _, features, _ = trace.leaves[position]
    first = position
    while first > 0 and _is_dropout(trace.leaves[first - 1], features):
        first -= 1
    return Wiring(head, trace.leaves[first][0], _find_maps(trace, features), features.shape[1], classes)


def _head_position(trace: _Trace, logits: Tensor) -> int | None:
    for position in reversed(range(len(trace.leaves))):
        _, module, given, made = trace.leaves[position]
        if isinstance(module, nn.Linear) and given.dim() == 2 and _same(made, logits):
            return position
    return None


def _is_dropout(leaf: tuple[str, nn.Module, Tensor, Tensor], features: Tensor) -> bool:
    _, module, given, _ = leaf
    return isinstance(module, _DROPOUTS) and given.shape == features.shape


def _find_maps(trace: _Trace, features: Tensor) -> str | None:
    if features.is_meta:
        return None
    matching = [
        (plane.shape[2] * plane.shape[3], order, name)
        for order, (name, plane) in enumerate(trace.planes)
        if plane.shape[:2] == features.shape
        and plane.shape[2] * plane.shape[3] > 1
        and _same(plane.mean((2, 3)), features)
    ]
    return max(matching)[2] if matching else None


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    return left.is_meta or torch.allclose(left.float(), right.float(), rtol=1e-4, atol=1e-6)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module's own mode is put back, also where they differ."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _traced(model: nn.Module, trace: _Trace) -> Iterator[None]:
    def watch(name: str, leaf: bool, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, given: tuple[object, ...], made: object) -> None:
            if not isinstance(made, Tensor):
                return
            if made.dim() == 4:
                # Kept by reference: a later in-place activation belongs to what h is the mean of.
                trace.planes.append((name, made))
            if leaf and given and isinstance(given[0], Tensor):
                trace.leaves.append((name, module, given[0], made))

        return module.register_forward_hook(note)

    handles = [watch(name, not any(module.children()), module) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
