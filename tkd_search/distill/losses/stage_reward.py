"""The feature reward at every stage of the student (docs/method.md, equation 12).

Without this term, early layers of a student learn through its late layers alone. Here each stage has a
teacher of its own: the tap whose map has as many positions as the stage's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.features.taps import Tap, as_map, find_maps, patch_map
from tkd_search.distill.interfaces import StudentOutput
from tkd_search.distill.losses.spatial_losses import cells_on_common_grid, local_feature_loss
from tkd_search.distill.teachers.generators import Generators


@dataclass
class _Captured:
    """Maps by module name, captured while open; shared by the hooks of one student and copied with it."""

    open: bool = False
    maps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _CaptureMap:
    """Forward hook that captures the output of the module of this name."""

    captured: _Captured
    name: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        activation = as_map(output) if self.captured.open else None
        if activation is not None:
            self.captured.maps[self.name] = patch_map(activation)


class StageReader:
    """Reads the maps at the ends of a student's stages while it runs.

    Args:
        student: a network that returns logits. Hooks stay in it and capture maps only while the reader runs
            it.
        example: images [B, C, H, W], B ≥ 1, for one run in eval mode that finds the stages.

    Attributes:
        stages: the last map of every size with more than one position, in order of execution.
    """

    def __init__(self, student: nn.Module, example: Tensor) -> None:
        self.stages = find_maps(student, example)
        self._captured = _Captured()
        for stage in self.stages:
            student.get_submodule(stage.name).register_forward_hook(_CaptureMap(self._captured, stage.name))

    def __call__(self, run: Callable[[], StudentOutput]) -> StudentOutput:
        """Return the output of a forward pass with the stages' maps [B, d_j, H_j, W_j], float32."""
        captured = self._captured
        captured.open = True
        try:
            output = run()
            maps = tuple(captured.maps[stage.name].float() for stage in self.stages)
        finally:
            captured.open, captured.maps = False, {}
        return output._replace(stages=maps)


def stage_teachers(stages: Sequence[Tap], taps: Sequence[Tap]) -> tuple[tuple[int, int], ...]:
    """Return pairs (stage, tap) of positions: for every stage one tap of every big model that has maps.

    Of the taps with at least as many positions as the stage, it is the deepest of those with the fewest.
    Where all maps are smaller than the stage's, it is the deepest of the largest.
    """
    models = sorted({tap.model for tap in taps if tap.spatial})
    pairs = []
    for j, stage in enumerate(stages):
        for model in models:
            own = [i for i, tap in enumerate(taps) if tap.model == model and tap.spatial]
            enough = [i for i in own if taps[i].positions >= stage.positions]
            best = min(taps[i].positions for i in enough) if enough else max(taps[i].positions for i in own)
            pairs.append((j, max(i for i in own if taps[i].positions == best)))
    return tuple(pairs)


class StageReward(nn.Module):
    """1 − cosine of A_j h_j(g) and φ(y_i(g)), mean over stages j with their taps i, rows and cells g.

    Args:
        stages: stages of the student, from its :class:`StageReader`.
        taps: taps of the bank.
        cell_taps: positions of those with cells.
        width: P.
        grid: cells per side in the bank.
        generator: draws the adapters A_j [P, d_j].
    """

    def __init__(
        self,
        stages: Sequence[Tap],
        taps: Sequence[Tap],
        cell_taps: Sequence[int],
        *,
        width: int,
        grid: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.pairs = stage_teachers(stages, taps)
        self._cell_of = {tap: i for i, tap in enumerate(cell_taps)}
        self._grid = grid
        self.adapters = nn.ParameterList(
            torch.randn(width, stages[j].channels, generator=generator) / stages[j].channels ** 0.5
            for j, _ in self.pairs
        )

    def forward(self, maps: Sequence[Tensor], cells: Tensor, generators: Generators) -> Tensor:
        """Return the loss.

        Args:
            maps: maps of the student's stages [B, d_j, H_j, W_j].
            cells: cells of the bank's spatial taps [B, M_s, G², P].
            generators: the generators, whose first M candidates read whole taps; constants here.
        """
        losses = []
        for (j, tap), adapter in zip(self.pairs, self.adapters, strict=True):
            common = cells_on_common_grid(maps[j], cells[:, self._cell_of[tap], None], self._grid)
            assert common is not None  # a stage has more than one position
            candidate = torch.tensor([tap], device=cells.device)
            targets = generators.activated(common.features, candidate).detach()
            mask = generators.mask[candidate]
            losses.append(local_feature_loss(common.hidden, targets, adapter[None], mask)[0])
        return torch.stack(losses).mean()
