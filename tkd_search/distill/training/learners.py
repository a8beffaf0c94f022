"""Everything that learns in one training, and its optimisers: student and adapters, teachers, big models."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.method_settings import TrainSettings
from tkd_search.distill.training.flat_parameters import FlatParameters
from tkd_search.distill.training.reduction import Reduction
from tkd_search.distill.training.schedule import (
    GENERATOR_WEIGHT_DECAY,
    adamw,
    averaged,
    rate,
    set_rate,
    student_optimizer,
)


class Learners:
    """Parameters in groups, an optimiser each, one backward pass for all.

    Args:
        student: the student's parameters and its adapters'.
        others: further groups (generators, big models) with their peak learning rates, trained by AdamW at a
            one-cycle rate; groups may be empty.
        train: the student's optimiser.
        total: steps of the full budget.
        reduction: averages gradients over workers.
        device: decides whether gradients are scaled (fp16 on GPUs).
    """

    def __init__(
        self,
        student: Iterable[nn.Parameter],
        others: Sequence[tuple[Sequence[nn.Parameter], float]],
        train: TrainSettings,
        *,
        total: int,
        reduction: Reduction,
        device: torch.device,
    ) -> None:
        self._flat = FlatParameters([p for p in student if p.requires_grad])
        others = [(group, peak) for group, peak in others if group]
        self._train, self._total, self._reduction = train, total, reduction
        self._parameters = [self._flat.whole, *(p for group, _ in others for p in group)]
        self._student = student_optimizer([self._flat.whole], train, total)
        self._others = [adamw(group, peak, GENERATOR_WEIGHT_DECAY) for group, peak in others]
        self._peaks = [peak for _, peak in others]
        half = train.precision == "fp16" and device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type) if half else None

    @property
    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._student, *self._others]

    def update(self, terms: Iterable[Tensor], step: int) -> None:
        """One step of every optimiser down the sum of terms; learners share no gradients."""
        self._zero_gradients()
        total = torch.stack(list(terms)).sum()
        (self._scaler.scale(total) if self._scaler else total).backward()
        self._reduction.average_gradients(self._parameters)
        self._set_rates(step)
        for optimizer in self._optimizers:
            if self._scaler:
                self._scaler.step(optimizer)
            else:
                optimizer.step()
        if self._scaler:
            self._scaler.update()

    def _set_rates(self, step: int) -> None:
        schedule = self._train.schedule
        if schedule != "schedule_free":
            set_rate(self._student, self._train.lr * rate(schedule, step, self._total))
        for optimizer, peak in zip(self._others, self._peaks, strict=True):
            set_rate(optimizer, peak * rate("one_cycle", step, self._total))

    def _zero_gradients(self) -> None:
        self._flat.zero_grad()
        for optimizer in self._others:
            optimizer.zero_grad(set_to_none=True)

    def averaged(self) -> list[Tensor]:
        """Values of the student's learning parameters to evaluate and ship, in their order."""
        return list(self._flat.views(averaged(self._student, self._flat.whole)))

    def state_dict(self) -> dict[str, Any]:
        """State of all optimisers; tensors are not copied."""
        scaler = self._scaler.state_dict() if self._scaler else None
        return {"optimizers": [o.state_dict() for o in self._optimizers], "scaler": scaler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``; ValueError where groups differ."""
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copied(saved))
        if self._scaler and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])


def copied(value: Any) -> Any:
    """A deep copy of nested dictionaries and lists, with detached tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [copied(inner) for inner in value]
    return value
