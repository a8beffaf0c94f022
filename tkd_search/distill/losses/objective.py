"""The student's objective L_D, as named terms, for the method and for every baseline.

An objective computes from one batch named, weighted terms whose sum the student minimises. The signals of the
big models and the generated teachers are constants in these terms (docs/method.md, equation 9).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.signal_source import Signals
from tkd_search.distill.features.taps import Tap
from tkd_search.distill.interfaces import StudentLike, StudentOutput
from tkd_search.distill.losses import functional
from tkd_search.distill.method_settings import MethodSettings
from tkd_search.distill.training.reduction import Reduction

_T = TypeVar("_T")
Terms = dict[str, Tensor]


def required(value: _T | None) -> _T:
    """Return a value that is never None here; an AssertionError is a mistake in this package."""
    assert value is not None
    return value


class Batch(NamedTuple):
    """Input of an objective for one batch.

    ``labels`` [B]; ``output`` of the student; ``signals`` of the big models (None where not needed);
    ``progress``, the completed share of the training, in [0, 1); ``step``, the number of completed batches.
    Where images are mixed, ``others`` [B] are the labels of the second images and ``share`` is the weight of
    the first ones. ``labelled`` is the number of labelled rows of all workers ÷ their number (None where all
    rows have labels).
    """

    labels: Tensor
    output: StudentOutput
    signals: Signals | None
    progress: float
    step: int
    others: Tensor | None = None
    share: float = 1.0
    labelled: Tensor | None = None

    def over_labels(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a loss of labels [B]; where images are mixed, its mean over both labels."""
        if self.others is None:
            return loss(self.labels)
        return self.share * loss(self.labels) + (1 - self.share) * loss(self.others)


class Objective(Protocol):
    """Computes the terms that a student minimises."""

    def terms(self, batch: Batch) -> Terms:
        """Return the weighted terms as scalars; their sum is the student's loss."""
        ...

    def student_parameters(self) -> Iterator[nn.Parameter]:
        """Return parameters outside the student that minimise the same loss (adapters)."""
        ...


@dataclass(frozen=True)
class Context:
    """Everything that objectives are built from, besides settings.

    ``bank`` and ``student`` define shapes; ``reduction`` connects the workers; ``generator`` draws initial
    weights; ``smoothing`` is the label smoothing of the cross-entropy, ``class_weights`` [c] its weights of
    classes (None: all 1); ``stages`` are the stages of the student, empty where they are not read.
    """

    student: StudentLike
    bank: Bank | None
    reduction: Reduction
    generator: torch.Generator
    smoothing: float = 0.0
    class_weights: Tensor | None = None
    stages: tuple[Tap, ...] = ()

    def label_loss(self, batch: "Batch") -> Tensor:
        """Return the cross-entropy of a batch with its labels, mean over its labelled rows."""
        logits, smoothing, weights = batch.output.logits, self.smoothing, self.class_weights
        return batch.over_labels(
            lambda labels: functional.label_loss(logits, labels, smoothing, weights, batch.labelled)
        )

    def tap_before_logits(self) -> int:
        """Return the position of the deepest tap before the logits, or 0 where there is no such tap."""
        return max((i for i, tap in enumerate(required(self.bank).taps) if tap.name != "logits"), default=0)

    def deepest_spatial_tap(self) -> int:
        """Return the position of the deepest tap with a map, or ``tap_before_logits`` without maps."""
        spatial = [i for i, tap in enumerate(required(self.bank).taps) if tap.spatial]
        return spatial[-1] if spatial else self.tap_before_logits()


def mixed_terms(
    settings: MethodSettings, context: Context, batch: Batch, gamma: float, kind: str = "kl"
) -> Terms:
    """Return (1 − λ)·CE and λ·(1 − γ_t)·D(p_F, q) with D = ``kind`` (kl, dist, dkd); omit zero weights."""
    terms: Terms = {}
    z, lam, tau = batch.output.logits, settings.lam, settings.tau
    if lam < 1:
        terms["labels"] = (1 - lam) * context.label_loss(batch)
    weight = lam * (1 - gamma)
    if weight <= 0 or batch.signals is None:
        return terms
    a = batch.signals.logits
    if kind == "dist":
        gather = context.reduction.gather
        loss = functional.dist(gather(a), gather(z), tau)
    elif kind == "dkd":
        beta, known = settings.dkd_beta, functional.known_or_predicted
        loss = batch.over_labels(lambda labels: functional.dkd(a, z, known(labels, a), tau, beta))
    else:
        loss = functional.kl(a, z, tau).mean()
    terms["big_model"] = weight * loss
    return terms


class _Objective(nn.Module):
    def student_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that learn; of the objectives here ``hint`` alone has some."""
        return (p for p in self.parameters() if p.requires_grad)


class LabelsOnly(_Objective):
    """Cross-entropy with the labels: plain training, the baseline ``ce``."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def terms(self, batch: Batch) -> Terms:
        """See ``Objective``."""
        return {"labels": self._context.label_loss(batch)}


class LogitDistillation(_Objective):
    """Labels and F's logits: the baselines ``kd``, ``dkd``, ``dist``."""

    def __init__(self, settings: MethodSettings, context: Context) -> None:
        super().__init__()
        self._settings, self._context = settings, context
        self._kind = {"kd": "kl"}.get(settings.name, settings.name)

    def terms(self, batch: Batch) -> Terms:
        """See ``Objective``."""
        return mixed_terms(self._settings, self._context, batch, 0.0, self._kind)


class FeatureDistillation(_Objective):
    """Hinton's KD at λ plus one feature term: the baselines ``hint``, ``at``, ``sp``.

    ``hint`` predicts the deepest tap before the logits through a linear adapter. ``sp`` compares relations
    between rows at that tap. ``at`` compares attention maps at the deepest spatial tap, computed from the
    bank's cells (standardised and projected; the paper squares raw activations).

    Raises:
        ValueError: ``at`` without cells in the bank.
    """

    def __init__(self, settings: MethodSettings, context: Context) -> None:
        super().__init__()
        bank = context.bank
        if bank is None:
            raise ValueError(f"method.name = {settings.name} needs a bank")
        if settings.name == "at" and not bank.grid:
            raise ValueError("method.name = at needs cells of a spatial tap: set bank.grid to 4")
        self._settings, self._context = settings, context
        self._tap = context.tap_before_logits()
        self._real, self._grid = bank.widths[self._tap], bank.grid
        width = context.student.feature_width
        start = torch.randn(bank.width, width, generator=context.generator) / width**0.5
        self.adapter = nn.Parameter(start, requires_grad=settings.name == "hint")

    def terms(self, batch: Batch) -> Terms:
        """See ``Objective``."""
        terms = mixed_terms(self._settings, self._context, batch, 0.0)
        if self._settings.hint_weight > 0:
            terms["feature"] = self._settings.hint_weight * self._feature(batch)
        return terms

    def _feature(self, batch: Batch) -> Tensor:
        signals, h = required(batch.signals), batch.output.features
        if self._settings.name == "at":
            if batch.output.maps is None:
                return h.new_zeros(())
            of_student, side = student_cells(batch.output.maps, self._grid)
            of_f = required(signals.cells)[:, -1].to(h.dtype).transpose(1, 2)
            return functional.attention_transfer(pooled_cells(of_f, self._grid, side), of_student)
        target = required(signals.features)[:, self._tap].to(h.dtype)
        if self._settings.name == "hint":
            return functional.hint(h @ self.adapter.T, target, self._real)
        gather = self._context.reduction.gather
        return functional.similarity_preserving(gather(target), gather(h))


def student_cells(maps: Tensor, grid: int) -> tuple[Tensor, int]:
    """Average the student's maps [B, d, H', W'] in g×g cells → ([B, d, g²], g), g = min(grid, H', W')."""
    g = min(grid, *maps.shape[-2:])
    return nn.functional.adaptive_avg_pool2d(maps, g).flatten(2), g


def pooled_cells(values: Tensor, grid: int, side: int) -> Tensor:
    """Average values [..., D, grid²] onto a coarser grid → [..., D, side²], side ≤ grid."""
    if grid == side:
        return values
    square = values.reshape(-1, 1, grid, grid)
    pooled = nn.functional.adaptive_avg_pool2d(square, side)
    return pooled.reshape(*values.shape[:-1], side * side)
