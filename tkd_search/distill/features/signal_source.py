"""Sources of a batch's signals from the big models: rows of the bank, or the models run live."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.ensemble_reader import EnsembleReader
from tkd_search.distill.features.projection import project_all, project_cells
from tkd_search.distill.load_tensors import load_tensors
from tkd_search.distill.losses import functional
from tkd_search.distill.method_settings import MethodSettings
from tkd_search.distill.precision import autocast

OverLabels = Callable[[Callable[[Tensor], Tensor]], Tensor]
"""Loss of labels [B] → its value for a batch, which may have two labels per row."""


@dataclass(frozen=True)
class Signals:
    """Output of the big models for one batch.

    ``logits`` a, float32 [B, c]; ``features`` Y, fp16 or float32 [B, M, P]; ``cells`` [B, M_s, G², P].
    Features and cells are None where they are not wanted.
    """

    logits: Tensor
    features: Tensor | None = None
    cells: Tensor | None = None

    def detached(self) -> "Signals":
        """Return the same signals with detached logits; features and cells are always constants."""
        return Signals(self.logits.detach(), self.features, self.cells)

    def rows(self, index: Tensor) -> "Signals":
        """Return the signals of the rows ``index`` [b]."""
        features, cells = (None if part is None else part[index] for part in (self.features, self.cells))
        return Signals(self.logits[index], features, cells)


class SignalSource:
    """Base class of sources; its big models do not learn."""

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Return the signals for views [B] of images [B]; ``images`` [B, C, H, W] are these views."""
        raise NotImplementedError

    def losses(
        self,
        signals: Signals,
        over_labels: OverLabels,
        student: Tensor,
        labelled: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses from which the big models learn: none."""
        return {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of big models that learn: none."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of big models that learn: none."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""


class BankSource(SignalSource):
    """Reads signals from the rows of a bank.

    Args:
        bank: a bank with rows.
        features: whether tap features are wanted.
        cells: whether cells are wanted.
        device: the device of the signals.
    """

    def __init__(self, bank: Bank, *, features: bool, cells: bool, device: torch.device) -> None:
        self._bank, self._features, self._cells, self._device = bank, features, cells, device

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Return rows of the bank; ``images`` is not used."""
        bank = self._bank
        row = bank.rows(view, index).to(bank.logits.device)
        features = bank.features[row].to(self._device) if self._features else None
        wanted = self._cells and bank.cells is not None
        cells = bank.cells[row].to(self._device) if wanted and bank.cells is not None else None
        return Signals(bank.logits[row].to(self._device).float(), features, cells)


class LiveSource(SignalSource):
    """Runs the big models on the current batch, in eval mode and without gradients.

    Args:
        models: the big models, on the device of the images.
        template: a bank, with or without rows, whose taps and projections define the features; None where
            only logits are wanted.
        features: whether tap features are wanted.
        cells: whether cells are wanted.
        precision: autocast precision, that of the student.
    """

    _learning = False

    def __init__(
        self,
        models: Sequence[nn.Module],
        template: Bank | None,
        *,
        features: bool,
        cells: bool,
        precision: str = "fp32",
    ) -> None:
        self.models, self._precision = nn.ModuleList(models), precision
        self._projections = template.projections if template is not None else ()
        self._grid = template.grid if template is not None else 0
        self._cell_taps = template.cell_taps if template is not None and cells else ()
        self._spatial = [self._projections[i] for i in self._cell_taps]
        self._features = features
        taps = template.taps if template is not None and (features or cells) else ()
        self._taps = taps

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Return the output of the models for ``images``."""
        self.models.eval()
        # Hooks stay for this pass only, because trials share the models.
        reader = EnsembleReader(self.models, self._taps, self._grid, self._cell_taps)
        precision = autocast(images.device, self._precision)
        # The selection of teachers reads without gradients.
        learning = self._learning and torch.is_grad_enabled()
        with torch.set_grad_enabled(learning), closing(reader), precision:
            reading = reader(images)
        with torch.no_grad():
            features = project_all(self._projections, reading.features) if self._features else None
            cells = project_cells(self._spatial, reading.cells) if self._spatial else None
        return Signals(reading.logits, features, cells)


class LearningSource(LiveSource):
    """Copies of the big models that learn together with the student (``distil_back: big_model``).

    They run in eval mode (dropout off, batch statistics frozen) and learn from the labels and, weighted
    ρ, from the student. Their features change, so the projections of the bank are used but not its rows.
    """

    _learning = True

    def __init__(
        self,
        models: Sequence[nn.Module],
        template: Bank | None,
        method: MethodSettings,
        *,
        features: bool,
        cells: bool,
        precision: str = "fp32",
    ) -> None:
        copies = [copy.deepcopy(model).requires_grad_(True) for model in models]
        super().__init__(copies, template, features=features, cells=cells, precision=precision)
        self._rho, self._tau = method.rho, method.tau

    def losses(
        self,
        signals: Signals,
        over_labels: OverLabels,
        student: Tensor,
        labelled: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss CE(a, label) + ρ·τ²·KL(p_F ‖ q) of F, with q constant.

        ``labelled`` as in :func:`~tkd_search.distill.losses.functional.label_loss`.
        """
        loss = over_labels(
            lambda labels: functional.label_loss(signals.logits, labels, 0.0, labelled=labelled)
        )
        if self._rho > 0:
            loss = loss + self._rho * functional.kl(signals.logits, student, self._tau).mean()
        return {"distil_back": loss}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters of the copies."""
        return self.models.parameters()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the copies."""
        return self.models.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the copies."""
        load_tensors(self.models, state)
