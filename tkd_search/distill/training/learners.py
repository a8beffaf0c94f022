"""The learning parameters of one training and their optimisers: student, generators, big models."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.method_settings import TrainSettings
from tkd_search.distill.training.flat_parameters import store
from tkd_search.distill.training.reduction import Reduction
from tkd_search.distill.training.schedule import (
    GENERATOR_WEIGHT_DECAY,
    SHARE,
    adamw,
    averaged,
    rate,
    set_rate,
    student_optimizer,
)


class Learners:
    """Groups of parameters with one optimiser each, updated by one backward pass.

    Args:
        student: the parameters of the student and its adapters.
        others: further groups (generators, big models) with their peak learning rates, trained by AdamW at a
            one-cycle rate; groups may be empty.
        train: the student's optimiser.
        total: steps of the full budget.
        reduction: averages gradients over workers.
        device: decides whether gradients are scaled (fp16 on GPUs).
        rates: share of the learning rate that each of the student's parameters gets; default: the whole. The
            schedule-free optimiser takes only whole rates.
    """

    def __init__(
        self,
        student: Sequence[nn.Parameter],
        others: Sequence[tuple[Sequence[nn.Parameter], float]],
        train: TrainSettings,
        *,
        total: int,
        reduction: Reduction,
        device: torch.device,
        rates: Sequence[float] = (),
    ) -> None:
        others = [(group, peak) for group, peak in others if group]
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter, share in zip(student, rates or [1.0] * len(student), strict=True):
            if parameter.requires_grad:
                by_rate.setdefault(share, []).append(parameter)
        self._storage = store([*by_rate.values(), *(group for group, _ in others)])
        self._train, self._total, self._reduction = train, total, reduction
        of_student, of_others = self._storage.groups[: len(by_rate)], self._storage.groups[len(by_rate) :]
        self._student = student_optimizer(
            [{"params": group, SHARE: share} for share, group in zip(by_rate, of_student, strict=True)],
            train,
            total,
        )
        self._peaks = [peak for _, peak in others]
        self._others = [
            adamw(group, peak, GENERATOR_WEIGHT_DECAY)
            for group, peak in zip(of_others, self._peaks, strict=True)
        ]
        half = train.precision == "fp16" and device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type) if half else None

    @property
    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._student, *self._others]

    def update(self, terms: Iterable[Tensor], step: int) -> None:
        """Take one step of every optimiser on the sum of the terms; no parameter is in two groups."""
        self._storage.zero_grad()
        total = torch.stack(list(terms)).sum()
        (self._scaler.scale(total) if self._scaler else total).backward()
        self._reduction.average_gradients(self._storage.gradients())
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

    def averaged(self) -> list[Tensor]:
        """Return the values of the student's learning parameters to evaluate and ship, in their order."""
        stored = self._storage.groups[0]
        return self._storage.unpack([averaged(self._student, p) for p in stored], 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all optimisers; tensors are not copied."""
        scaler = self._scaler.state_dict() if self._scaler else None
        return {"optimizers": [o.state_dict() for o in self._optimizers], "scaler": scaler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            ValueError: the groups differ.
        """
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copied(saved))
        if self._scaler and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])


def copied(value: Any) -> Any:
    """Return a deep copy of nested dictionaries and lists, with detached tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [copied(inner) for inner in value]
    return value
