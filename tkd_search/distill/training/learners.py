"""The learning parameters of one training and their optimisers: student, generators, big models."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tkd_search.distill.method_settings import TrainSettings
from tkd_search.distill.training.flat_parameters import store
from tkd_search.distill.training.reduction import Reduction
from tkd_search.distill.training.schedule import (
    GENERATOR_WEIGHT_DECAY,
    SHARE,
    adamw,
    averaged,
    decays,
    rate,
    set_rate,
    student_optimizer,
)

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names."""


class Learners:
    """Groups of parameters with one optimiser each, updated by one backward pass.

    Weight decay applies to the parameters that ``schedule.decays`` names.

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
        student: Named,
        others: Sequence[tuple[Named, float]],
        train: TrainSettings,
        *,
        total: int,
        reduction: Reduction,
        device: torch.device,
        rates: Sequence[float] = (),
    ) -> None:
        others = [(group, peak) for group, peak in others if _grouped(group)]
        grouped = [_grouped(student, rates), *(_grouped(group) for group, _ in others)]
        self._storage = store([members for groups in grouped for members in groups.values()])
        self._train, self._total, self._reduction = train, total, reduction
        stored = iter(self._storage.groups)
        of_student, *of_others = (
            [
                {"params": next(stored), SHARE: share, **({} if decayed else {"weight_decay": 0.0})}
                for share, decayed in groups
            ]
            for groups in grouped
        )
        self._learning = [parameter for _, parameter in student if parameter.requires_grad]
        self._members = list(grouped[0].values())
        self._student = student_optimizer(of_student, train, total)
        self._peaks = [peak for _, peak in others]
        self._others = [
            adamw(groups, peak, GENERATOR_WEIGHT_DECAY)
            for groups, peak in zip(of_others, self._peaks, strict=True)
        ]
        self._stored = [parameter for group in self._student.param_groups for parameter in group["params"]]
        self._ema = [parameter.detach().clone() for parameter in self._stored] if self.keeps_ema else []
        half = train.precision == "fp16" and device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type) if half else None

    @property
    def keeps_ema(self) -> bool:
        """Whether an exponential average of the student's weights is kept."""
        return self._train.ema > 0 and self._train.schedule != "schedule_free"

    @property
    def averages(self) -> bool:
        """Whether the weights to evaluate and ship are averages over steps."""
        return self.keeps_ema or self._train.schedule == "schedule_free"

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
        if self._train.clip_norm > 0:
            if self._scaler:
                self._scaler.unscale_(self._student)
            nn.utils.clip_grad_norm_(self._stored, self._train.clip_norm)
        for optimizer in self._optimizers:
            if self._scaler:
                self._scaler.step(optimizer)
            else:
                optimizer.step()
        if self._scaler:
            self._scaler.update()
        if self._ema:
            # The average of few steps forgets its start, as in TensorFlow's and timm's averages.
            kept = min(self._train.ema, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(kept)(self._ema, [p.detach() for p in self._stored], step)

    def _set_rates(self, step: int) -> None:
        schedule = self._train.schedule
        if schedule != "schedule_free":
            set_rate(self._student, self._train.lr * rate(schedule, step, self._total))
        for optimizer, peak in zip(self._others, self._peaks, strict=True):
            set_rate(optimizer, peak * rate("one_cycle", step, self._total))

    def averaged(self) -> list[Tensor]:
        """Return the values of the student's learning parameters to evaluate and ship, in their order."""
        values = iter(self._ema or [averaged(self._student, parameter) for parameter in self._stored])
        found: dict[nn.Parameter, Tensor] = {}
        for number, members in enumerate(self._members):
            stored = [next(values) for _ in self._storage.groups[number]]
            found.update(zip(members, self._storage.unpack(stored, number), strict=True))
        return [found[parameter] for parameter in self._learning]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all optimisers; tensors are not copied."""
        scaler = self._scaler.state_dict() if self._scaler else None
        optimizers = [o.state_dict() for o in self._optimizers]
        return {"optimizers": optimizers, "ema": list(self._ema), "scaler": scaler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            ValueError: the groups differ.
        """
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copied(saved))
        for average, value in zip(self._ema, state["ema"], strict=True):
            average.copy_(value)
        if self._scaler and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])


def _grouped(parameters: Named, rates: Sequence[float] = ()) -> dict[tuple[float, bool], list[nn.Parameter]]:
    """Return the parameters that learn, by their share of the rate and whether weight decay applies."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for (name, parameter), share in zip(parameters, rates or [1.0] * len(parameters), strict=True):
        if parameter.requires_grad:
            groups.setdefault((share, decays(name, parameter)), []).append(parameter)
    return groups


def copied(value: Any) -> Any:
    """Return a deep copy of nested dictionaries and lists, with detached tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [copied(inner) for inner in value]
    return value
