"""Taps: named modules of a big model whose activations are read, chosen by pattern or automatically."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tkd_search.distill.features.feature_stages import map_ends, map_size, patch_side, stage_ends
from tkd_search.distill.interfaces import logits_of
from tkd_search.distill.method_settings import CellsName
from tkd_search.errors import UserError

LOGITS = "logits"
"""Name of the tap on the model's output."""
MAX_AUTO_TAPS = 16
"""Maximum number of taps that ``auto`` chooses, the logits included."""


@dataclass(frozen=True)
class Tap:
    """One tap.

    ``name``: dotted name of its module. ``channels``: C_i. ``positions``: H·W of its map or of its grid of
    patch tokens, 0 where it has none. ``model``: position of its big model.
    """

    name: str
    channels: int
    positions: int = 0
    model: int = 0

    @property
    def spatial(self) -> bool:
        """Whether the tap has a map of more than one position."""
        return self.positions > 1

    @property
    def label(self) -> str:
        """Name that is unique over several big models: ``layer3.1`` or ``1:layer3.1``."""
        return f"{self.model}:{self.name}" if self.model else self.name


def taps_with_cells(taps: Sequence[Tap], cells: CellsName) -> tuple[int, ...]:
    """Return the positions of the taps whose cells are kept.

    With ``stages`` it is the deepest tap of every map size of every model, else every spatial tap.
    """
    spatial = [i for i, tap in enumerate(taps) if tap.spatial]
    if cells != "stages":
        return tuple(spatial)
    return tuple(sorted({(taps[i].model, taps[i].positions): i for i in spatial}.values()))


def as_map(output: object) -> Tensor | None:
    """Return the activation in a module's output as [B, C], [B, T, C] or [B, C, H, W], or None.

    A 4-D activation with sizes [B, n, n, m], m ≠ n, is taken as [B, H, W, C] (Swin) and permuted.
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point() or not 2 <= output.dim() <= 4:
        return None
    if output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        return output.permute(0, 3, 1, 2)
    return output


def pooled(activation: Tensor) -> Tensor:
    """Return the mean [B, C] over positions [B, C, H, W] or tokens [B, T, C]; vectors are unchanged."""
    if activation.dim() == 4:
        return activation.mean((2, 3))
    return activation.mean(1) if activation.dim() == 3 else activation


def patch_map(activation: Tensor) -> Tensor:
    """Return patch tokens [B, T, C] as a map [B, C, n, n], without class and register tokens; maps as given.

    The activation must have a map size (``map_size``).
    """
    if activation.dim() == 4:
        return activation
    side = patch_side(activation.shape[1])
    return activation[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def cells(activation: Tensor, grid: int) -> Tensor:
    """Return a map [B, C, H, W] averaged in the cells of a grid → [B, C, grid²]."""
    return F.adaptive_avg_pool2d(activation, grid).flatten(2)


class TapReader:
    """Reads taps while a model runs.

    The hooks pool activations at once, so later in-place operations do not change them. They stay registered
    until ``close``.

    Args:
        model: the big model, in the mode in which it is to run.
        taps: taps of this model; ``logits`` is its output.
        grid: cells per side.
        with_cells: the spatial taps whose cells are read.
    """

    def __init__(
        self, model: nn.Module, taps: Sequence[Tap], grid: int = 0, with_cells: Collection[Tap] = ()
    ) -> None:
        self._model, self._taps, self._grid, self._with_cells = model, tuple(taps), grid, with_cells
        self._activations: dict[str, tuple[Tensor, Tensor | None]] = {}
        modules = dict(model.named_modules())
        self._handles = [
            modules[tap.name].register_forward_hook(self._hook(tap)) for tap in taps if tap.name != LOGITS
        ]

    def _hook(self, tap: Tap):  # type: ignore[no-untyped-def]
        def read(module: nn.Module, args: object, output: object) -> None:
            activation = as_map(output)
            if activation is not None:
                of_cells = cells(patch_map(activation), self._grid) if tap in self._with_cells else None
                self._activations[tap.name] = pooled(activation), of_cells

        return read

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run the model on images [B, C, H, W].

        Returns:
            Logits [B, c]; per tap its pooled feature [B, C_i]; per tap with cells these [B, C_i, G²]. All
            float32.
        """
        self._activations.clear()
        logits = logits_of(self._model(images)).float()
        self._activations[LOGITS] = logits, None
        found = [self._activations[tap.name] for tap in self._taps]
        self._activations = {}
        return (
            logits,
            [feature.float() for feature, _ in found],
            [c.float() for _, c in found if c is not None],
        )

    def close(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def _shapes(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the output shapes of all modules with an activation, by name, in order of execution."""
    found: dict[str, tuple[int, ...]] = {}

    def hook(name: str):  # type: ignore[no-untyped-def]
        def read(module: nn.Module, args: object, output: object) -> None:
            activation = as_map(output)
            if activation is not None:
                found.pop(name, None)
                found[name] = tuple(activation.shape)

        return read

    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if name]
    training = model.training
    try:
        model.eval()
        found[LOGITS] = tuple(logits_of(model(example)).shape)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a module name, with or without a wrapper's prefix."""
    return fnmatchcase(name, pattern) or fnmatchcase(re.sub(r"^(model|module)\.", "", name), pattern)


def find_taps(model: nn.Module, patterns: Sequence[str], example: Tensor) -> tuple[Tap, ...]:
    """Return the taps of a model, in order of execution; the logits are always the last.

    Args:
        model: any classifier; it runs once in eval mode, then its mode is restored.
        patterns: module names or fnmatch patterns; ``auto`` stands for the ends of stages, thinned evenly
            to 16 including the logits.
        example: images [B, C, H, W] for the run, B ≥ 1.

    Raises:
        UserError: a pattern matches no module that returns an activation.
    """
    return find_taps_of_all([model], patterns, [example])


def find_maps(model: nn.Module, example: Tensor) -> tuple[Tap, ...]:
    """Return the last map of every size with more than one position, in order of execution.

    Arguments as for ``find_taps``.
    """
    shapes = _shapes(model, example)
    return tuple(_tap(name, shapes[name]) for name in map_ends(model, shapes))


def find_taps_of_all(
    models: Sequence[nn.Module], patterns: Sequence[str], examples: Sequence[Tensor]
) -> tuple[Tap, ...]:
    """Return the taps of several big models, model by model; see ``find_taps``. Each has its own example.

    Raises:
        UserError: a pattern matches no module of any model.
    """
    shapes = [_shapes(model, example) for model, example in zip(models, examples, strict=True)]
    names = [name for found in shapes for name in found]
    for pattern in patterns:
        if pattern != "auto" and not any(_matches(name, pattern) for name in names):
            near = ", ".join(names[:12])
            raise UserError(
                "bank.taps", repr(pattern), f"auto, or names or patterns of modules, such as {near}"
            )
    return tuple(
        tap
        for index, (model, found) in enumerate(zip(models, shapes, strict=True))
        for tap in _chosen(model, found, patterns, index)
    )


def _chosen(
    model: nn.Module, shapes: dict[str, tuple[int, ...]], patterns: Sequence[str], index: int
) -> list[Tap]:
    """Return the taps of one model that the patterns choose from its modules' output shapes."""
    inner = {name: shape for name, shape in shapes.items() if name != LOGITS}
    chosen = {name for name in inner if any(_matches(name, pattern) for pattern in patterns)}
    if "auto" in patterns:
        chosen |= set(stage_ends(model, inner, limit=MAX_AUTO_TAPS - 1))
    taps = [_tap(name, shape, index) for name, shape in inner.items() if name in chosen]
    return [*taps, Tap(LOGITS, shapes[LOGITS][1], 0, index)]


def _tap(name: str, shape: tuple[int, ...], index: int = 0) -> Tap:
    height, width = map_size(shape) or (0, 0)
    return Tap(name, shape[-1] if len(shape) == 3 else shape[1], height * width, index)
