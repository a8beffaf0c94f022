"""Statistics of one epoch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tkd_search.distill.diverged import Diverged

TEACHER_TERMS = frozenset({"generators", "distil_back"})
"""Terms that train teachers, not the student."""


@dataclass(frozen=True)
class EpochStats:
    """Statistics of one epoch.

    ``epoch`` counts from 1. ``losses`` are the means of the objective's weighted terms, of the student's
    ``total`` and of the losses of its teachers (``TEACHER_TERMS``). ``teachers`` are (candidate name,
    weight), largest weight first. ``seconds`` is wall time. ``agreements`` are (candidate name, CKA with the
    student at the time of selection).
    """

    epoch: int
    losses: dict[str, float]
    teachers: tuple[tuple[str, float], ...]
    seconds: float
    agreements: tuple[tuple[str, float], ...] = ()


class Means:
    """Running means of named scalars, summed on their device to avoid a synchronisation per batch."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the scalars of one batch."""
        for name, value in terms.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts by name."""
        return {"sums": self._sums, "counts": self._counts}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> "Means":
        """Build the means from the result of ``state_dict``."""
        means = cls()
        means._sums = {name: value.to(device) for name, value in state["sums"].items()}
        means._counts = dict(state["counts"])
        return means

    def check(self, epoch: int) -> dict[str, float]:
        """Return the means so far, and as ``total`` the sum of the student's terms.

        Raises:
            Diverged: a mean is not finite.
        """
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        means = {name: s / self._counts[name] for name, s in zip(self._sums, sums, strict=True)}
        if not all(math.isfinite(mean) for mean in means.values()):
            raise Diverged(epoch, means)
        return {**means, "total": sum(mean for name, mean in means.items() if name not in TEACHER_TERMS)}
