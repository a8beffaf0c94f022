"""Optimisers and learning-rate schedules of students and generators.

Schedules are pure functions of the step, so a training resumes exactly from its step.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tkd_search.distill.method_settings import TrainSettings

_RISE = {"one_cycle": 0.2, "cosine": 0.05, "constant": 0.05}
_MOMENTUM = 0.9
SCHEDULE_FREE_RISE = 0.1
GENERATOR_WEIGHT_DECAY = 1e-3
SHARE = "share"
"""Key of a parameter group with its share of the learning rate."""

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
"""Parameters of an optimiser, or groups of them."""


def rate(schedule: str, step: int, total: int) -> float:
    """Return the learning rate at ``step`` of ``total`` as a share of its peak, in (0, 1].

    ``one_cycle`` rises from 1/25 over a fifth of the steps and falls to 4e-6, by half cosines (Smith and
    Topin 2017). ``cosine`` and ``constant`` rise linearly over a twentieth; ``cosine`` then falls to
    4e-6 by a half cosine. ``schedule_free`` is always 1, because its optimiser sets the rate.
    """
    if schedule == "schedule_free":
        return 1.0
    rise = max(1, round(_RISE[schedule] * total))
    if step < rise:
        return _cosine(1 / 25, 1.0, step / rise) if schedule == "one_cycle" else (step + 1) / rise
    if schedule == "constant":
        return 1.0
    return _cosine(1.0, 4e-6, min(1.0, (step - rise) / max(1, total - rise)))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups, each by its share."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get(SHARE, 1.0)


def decays(name: str, parameter: Tensor) -> bool:
    """Return whether weight decay applies to a parameter: not to norms, biases and activation parameters.

    Args:
        name: its dotted name; activation parameters of generated teachers are called ``theta``.
        parameter: the parameter; vectors are never decayed.
    """
    return parameter.dim() > 1 and name.rpartition(".")[2] not in ("bias", "theta")


def student_optimizer(parameters: Parameters, settings: TrainSettings, total: int) -> torch.optim.Optimizer:
    """Return the optimiser of the student and its adapters, schedule-free with that schedule.

    Args:
        parameters: the parameters to train.
        settings: optimiser, peak rate, weight decay and schedule.
        total: steps of the full budget, which set the warm-up of the schedule-free optimiser.
    """
    lr, weight_decay, sgd = settings.lr, settings.weight_decay, settings.optimizer == "sgd"
    if settings.schedule != "schedule_free":
        if not sgd:
            return adamw(parameters, lr, weight_decay)
        return torch.optim.SGD(
            parameters, lr=lr, momentum=_MOMENTUM, nesterov=True, weight_decay=weight_decay, fused=True
        )
    import schedulefree  # imported here so that the other schedules need PyTorch alone

    kind = schedulefree.SGDScheduleFree if sgd else schedulefree.AdamWScheduleFree
    steps = round(SCHEDULE_FREE_RISE * total)
    optimizer = kind(parameters, lr=lr, weight_decay=weight_decay, warmup_steps=steps)
    optimizer.train()
    return optimizer


def adamw(parameters: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return AdamW with a fused kernel; the caller sets its rate at every step."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


@torch.no_grad()
def averaged(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor:
    """Return the value of a parameter to evaluate and ship: the schedule-free average x or the value.

    While training, the parameter holds y and the optimiser's state z; x = y + (1 − 1/β1)(z − y), with SGD's
    momentum as β1 (Defazio et al. 2024). Nothing is changed in place, so the training is not affected.
    """
    group = optimizer.param_groups[0]
    state = optimizer.state.get(parameter, {})
    if "z" not in state or not group.get("train_mode", False):
        return parameter.detach()
    momentum = group["betas"][0] if "betas" in group else group["momentum"]
    return parameter.detach().lerp(state["z"].to(parameter.device), 1 - 1 / momentum)
