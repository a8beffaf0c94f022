"""Figures of an epoch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tkd_search.distill.diverged import Diverged

NOT_THE_STUDENTS = frozenset({"generators", "distil_back"})
"""Terms that train teachers, not the student."""


@dataclass(frozen=True)
class EpochStats:
    """What one epoch was like.

    ``epoch`` counts from 1; ``losses`` are the means of the objective's weighted terms, the student's
    ``total`` among them, and of what its teachers learn from (``generators``); ``teachers`` are (candidate
    name, weight), most wanted first; ``seconds`` is wall time;
    ``agreements`` are (candidate name, CKA with the student when it was selected).
    """

    epoch: int
    losses: dict[str, float]
    teachers: tuple[tuple[str, float], ...]
    seconds: float
    agreements: tuple[tuple[str, float], ...] = ()


class Means:
    """Running means of named scalars, summed on their device so that no batch waits for a copy."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        """Take in one batch's scalars."""
        for name, value in terms.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def check(self, epoch: int) -> dict[str, float]:
        """The means so far; ``total`` is the student's. Raises Diverged where one is not finite."""
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        means = {name: s / self._counts[name] for name, s in zip(self._sums, sums, strict=True)}
        if not all(math.isfinite(mean) for mean in means.values()):
            raise Diverged(epoch, means)
        return {**means, "total": sum(mean for name, mean in means.items() if name not in NOT_THE_STUDENTS)}
