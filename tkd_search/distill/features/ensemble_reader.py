"""Reads an ensemble of big models: the taps of all models and the logits of their mean probability."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tkd_search.distill.features.taps import Tap, TapReader


@dataclass(frozen=True)
class Reading:
    """Output of the big models for one batch: logits [B, c], pooled features per tap, cells of some."""

    logits: Tensor
    features: list[Tensor]
    cells: list[Tensor]

    def to(self, device: torch.device | str) -> "Reading":
        """Return the same reading on another device."""
        features, cells = ([t.to(device) for t in tensors] for tensors in (self.features, self.cells))
        return Reading(self.logits.to(device), features, cells)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(t.nbytes for t in (self.logits, *self.features, *self.cells))


class EnsembleReader:
    """Reads the taps of several big models and the logits of their mean probability.

    Args:
        models: the big models, in eval mode.
        taps: the taps of all models, model by model.
        grid: cells per side.
        cell_taps: positions in ``taps`` of the spatial taps whose cells are read.
    """

    def __init__(
        self, models: Iterable[nn.Module], taps: Sequence[Tap], grid: int = 0, cell_taps: Sequence[int] = ()
    ) -> None:
        with_cells = {taps[i] for i in cell_taps}
        self._readers = [
            TapReader(model, [tap for tap in taps if tap.model == i], grid, with_cells)
            for i, model in enumerate(models)
        ]

    def __call__(self, images: Tensor) -> Reading:
        """Run all models on images [B, C, H, W]."""
        parts = [reader(images) for reader in self._readers]
        return Reading(
            mean_logits([logits for logits, _, _ in parts]),
            [f for _, features, _ in parts for f in features],
            [c for _, _, cells in parts for c in cells],
        )

    def close(self) -> None:
        """Remove the hooks from the models."""
        for reader in self._readers:
            reader.close()


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the logits of the mean probability of several models; those of one model are unchanged."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([z.log_softmax(-1) for z in logits]).logsumexp(0)
