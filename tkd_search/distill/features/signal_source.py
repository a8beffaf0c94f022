"""Where a batch's signals of the big models come from: rows of the bank, or the models run live."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.projection import project_all, project_cells
from tkd_search.distill.features.readers import Readers
from tkd_search.distill.losses import functional
from tkd_search.distill.method_settings import MethodSettings


@dataclass(frozen=True)
class Signals:
    """What the big models say about one batch.

    ``logits`` a, float32 [B, c]; ``features`` Y, fp16 or float32 [B, M, P]; ``cells`` [B, M_s, G², P].
    Features and cells are None where nobody asked for them.
    """

    logits: Tensor
    features: Tensor | None = None
    cells: Tensor | None = None

    def detached(self) -> "Signals":
        """The same as constants."""
        return Signals(self.logits.detach(), self.features, self.cells)


class SignalSource:
    """Anything that tells what the big models say; most of them do not learn."""

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Signals for views [B] of images [B]; ``images`` [B, C, H, W] are those very views."""
        raise NotImplementedError

    def losses(self, signals: Signals, labels: Tensor, student: Tensor) -> dict[str, Tensor]:
        """What the big models themselves learn from: nothing."""
        return {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of big models that learn: none."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """State of big models that learn: none."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""


class BankSource(SignalSource):
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


class LiveSource(SignalSource):
    """Signals from the big models run on the batch at hand, in eval mode and without gradients.

    Args:
        models: the big models, on the device of the images.
        form: a bank (with or without rows) whose taps and projections the features take; None where
            only logits are wanted.
        features: whether tap features are wanted.
        cells: whether cells are wanted.
    """

    _learning = False

    def __init__(
        self, models: Sequence[nn.Module], form: Bank | None, *, features: bool, cells: bool
    ) -> None:
        self.models = nn.ModuleList(models)
        self._projections = form.projections if form is not None else ()
        grid = form.grid if form is not None and cells else 0
        self._spatial = [self._projections[i] for i in form.cell_taps] if form is not None and grid else []
        self._features = features
        taps = form.taps if form is not None and (features or cells) else ()
        self._taps, self._grid = taps, grid

    def read(self, view: Tensor, index: Tensor, images: Tensor) -> Signals:
        """Run the models on ``images``."""
        self.models.eval()
        # Hooks for this pass alone: trials share the models.
        readers = Readers(self.models, self._taps, self._grid)
        with torch.set_grad_enabled(self._learning), closing(readers):
            reading = readers(images)
        with torch.no_grad():
            features = project_all(self._projections, reading.features) if self._features else None
            cells = project_cells(self._spatial, reading.cells) if self._spatial else None
        return Signals(reading.logits, features, cells)


class LearningSource(LiveSource):
    """Big models that learn beside the student (``distil_back: big_model``), in copies of their own.

    They run in eval mode (dropout off, batch statistics frozen) and learn from the labels and, weighted
    ρ, from the student. Their features change, so the bank's rows are not used; its projections are.
    """

    _learning = True

    def __init__(
        self,
        models: Sequence[nn.Module],
        form: Bank | None,
        method: MethodSettings,
        *,
        features: bool,
        cells: bool,
    ) -> None:
        copies = [copy.deepcopy(model).requires_grad_(True) for model in models]
        super().__init__(copies, form, features=features, cells=cells)
        self._rho, self._tau = method.rho, method.tau

    def losses(self, signals: Signals, labels: Tensor, student: Tensor) -> dict[str, Tensor]:
        """CE(a, label) + ρ·τ²·KL(p_F ‖ q), q constant: what distils back into F."""
        loss = functional.label_loss(signals.logits, labels, 0.0)
        if self._rho > 0:
            loss = loss + self._rho * functional.kl(signals.logits, student, self._tau).mean()
        return {"distil_back": loss}

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the copies."""
        return self.models.parameters()

    def state_dict(self) -> dict[str, Any]:
        """State of the copies."""
        return self.models.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the copies."""
        self.models.load_state_dict(state)
