"""The feature reward at every stage of the student (docs/method.md, equation 12).

A student learns its early layers through its late ones alone, unless they have teachers of their own: the
tap whose map has as many places as the stage's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.features.taps import Tap, as_map, find_maps
from tkd_search.distill.interfaces import StudentOutput
from tkd_search.distill.losses.spatial_losses import common_places, local_feature_loss
from tkd_search.distill.teachers.generators import Generators


@dataclass
class _Caught:
    """Maps by name of module, while open; shared by the hooks of one student, and copied with it."""

    open: bool = False
    maps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Keep:
    """Forward hook: the output of the module of this name is one of the maps."""

    caught: _Caught
    name: str

    def __call__(self, module: nn.Module, given: tuple[Any, ...], made: object) -> None:
        activation = as_map(made) if self.caught.open else None
        if activation is not None:
            self.caught.maps[self.name] = activation


class StageReader:
    """Reads the maps at the ends of a student's stages while it runs.

    Args:
        student: a network that returns logits; hooks stay in it, and do nothing unless it is read.
        example: images [B, C, H, W] to find the stages with, B ≥ 1; run once, in eval mode.

    Attributes:
        stages: the last of every size of map that has more than one place, in order of execution.
    """

    def __init__(self, student: nn.Module, example: Tensor) -> None:
        self.stages = find_maps(student, example)
        self._caught = _Caught()
        for stage in self.stages:
            student.get_submodule(stage.name).register_forward_hook(_Keep(self._caught, stage.name))

    def __call__(self, run: Callable[[], StudentOutput]) -> StudentOutput:
        """What the student says in a forward pass, with its maps [B, d_j, H_j, W_j] beside, float32."""
        caught = self._caught
        caught.open = True
        try:
            output = run()
            maps = tuple(caught.maps[stage.name].float() for stage in self.stages)
        finally:
            caught.open, caught.maps = False, {}
        return output._replace(stages=maps)


def stage_teachers(stages: Sequence[Tap], taps: Sequence[Tap]) -> tuple[tuple[int, int], ...]:
    """Pairs (stage, tap), by position: for every stage one tap of every big model that has maps.

    It is the deepest of those with the fewest places that are still no fewer than the stage's; where all maps
    are smaller, the deepest of the largest.
    """
    models = sorted({tap.model for tap in taps if tap.spatial})
    pairs = []
    for j, stage in enumerate(stages):
        for model in models:
            own = [i for i, tap in enumerate(taps) if tap.model == model and tap.spatial]
            enough = [i for i in own if taps[i].places >= stage.places]
            best = min(taps[i].places for i in enough) if enough else max(taps[i].places for i in own)
            pairs.append((j, max(i for i in own if taps[i].places == best)))
    return tuple(pairs)


class StageReward(nn.Module):
    """1 − cosine of A_j h_j(g) and φ(y_i(g)): mean over stages j with their taps i, rows and cells g.

    Args:
        stages: the student's, as its :class:`StageReader` found them.
        taps: of the bank.
        width: P.
        grid: cells per side that the bank keeps.
        generator: draws the adapters A_j [P, d_j].
    """

    def __init__(
        self, stages: Sequence[Tap], taps: Sequence[Tap], *, width: int, grid: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.pairs = stage_teachers(stages, taps)
        spatial = [i for i, tap in enumerate(taps) if tap.spatial]
        self._cell_of = {tap: i for i, tap in enumerate(spatial)}
        self._grid = grid
        self.adapters = nn.ParameterList(
            torch.randn(width, stages[j].channels, generator=generator) / stages[j].channels ** 0.5
            for j, _ in self.pairs
        )

    def forward(self, maps: Sequence[Tensor], cells: Tensor, generators: Generators) -> Tensor:
        """The reward, to be minimised.

        Args:
            maps: of the student's stages [B, d_j, H_j, W_j].
            cells: of the bank's spatial taps [B, M_s, G², P].
            generators: whose first M candidates read whole taps; constants here.
        """
        losses = []
        for (j, tap), adapter in zip(self.pairs, self.adapters, strict=True):
            places = common_places(maps[j], cells[:, self._cell_of[tap], None], self._grid)
            assert places is not None  # a stage has more than one place
            candidate = torch.tensor([tap], device=cells.device)
            targets = generators.activated(places.features, candidate).detach()
            mask = generators.mask[candidate]
            losses.append(local_feature_loss(places.hidden, targets, adapter[None], mask)[0])
        return torch.stack(losses).mean()
