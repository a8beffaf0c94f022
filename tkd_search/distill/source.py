"""Where a batch's signals of the big models come from: rows of the bank, or the models run live."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tkd_search.distill.bank import Bank, Readers
from tkd_search.distill.projection import project_all, project_cells


@dataclass(frozen=True)
class Signals:
    """What the big models say about one batch.

    ``logits`` a, float32 [B, c]; ``features`` Y, fp16 or float32 [B, M, P]; ``cells`` [B, M_s, G², P].
    Features and cells are None where nobody asked for them.
    """

    logits: Tensor
    features: Tensor | None = None
    cells: Tensor | None = None


class SignalSource(Protocol):
    """Anything that tells what the big models say."""

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Signals for views [B] of images [B]; ``images`` [B, C, H, W] are those very views."""
        ...


class BankSource:
    """Signals looked up in a bank.

    Args:
        bank: with rows.
        features: whether tap features are wanted.
        cells: whether cells are wanted.
        device: where signals are needed.
    """

    def __init__(self, bank: Bank, *, features: bool, cells: bool, device: torch.device) -> None:
        self._bank, self._features, self._cells, self._device = bank, features, cells, device

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Rows of the bank; ``images`` is not looked at."""
        bank = self._bank
        row = bank.rows(view, index).to(bank.logits.device)
        features = bank.features[row].to(self._device) if self._features else None
        wanted = self._cells and bank.cells is not None
        cells = bank.cells[row].to(self._device) if wanted and bank.cells is not None else None
        return Signals(bank.logits[row].to(self._device).float(), features, cells)


class LiveSource:
    """Signals from the big models run on the batch at hand, in eval mode.

    Args:
        models: the big models, on the device of the images.
        form: a bank (rows or none) whose taps and projections the features take; None where only logits
            are wanted.
        features: whether tap features are wanted.
        cells: whether cells are wanted.
        learning: whether gradients shall reach the models (distil-back into F).
    """

    def __init__(
        self, models: Sequence[nn.Module], form: Bank | None, *, features: bool, cells: bool, learning: bool = False
    ) -> None:
        self._models, self._learning = tuple(models), learning
        self._features = features and form is not None
        grid = form.grid if form is not None and cells else 0
        taps = form.taps if form is not None and (features or cells) else ()
        self._cells = bool(grid)
        self._projections = form.projections if form is not None else ()
        self._spatial = [self._projections[i] for i in form.cell_taps] if form is not None and grid else []
        self._readers = Readers(models, taps, grid)

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Run the models on ``images``."""
        for model in self._models:
            model.eval()
        with torch.set_grad_enabled(self._learning):
            reading = self._readers(images)
        with torch.no_grad():
            features = project_all(self._projections, reading.features) if self._features else None
            cells = project_cells(self._spatial, reading.cells) if self._cells else None
        return Signals(reading.logits, features, cells)
