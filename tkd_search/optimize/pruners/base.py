"""The pruner's interface and the functions that pruners share.

A rung is a number of epochs at which trials are compared. A pruner gets the records at a rung and one new
record, the newcomer, and returns a decision. It has no state, so replaying the records in order of arrival
reproduces every decision. Every pruner passes ``tests/optimize/pruner_conformance.py``: the decision does not
depend on the order of the records, and a newcomer that dominates every record goes on.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

FIRST_RUNGS = (1 / 9, 1 / 3)
"""Shares of the full budget of the rungs of plain halving by three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRecord:
    """A trial's cost (> 0), and its validation accuracy in [0, 1] after ``epoch`` epochs (from 1)."""

    trial_id: str
    epoch: int
    cost: float
    accuracy: float


@dataclass(frozen=True)
class Continue:
    """The trial goes on."""


@dataclass(frozen=True)
class Stop:
    """The trial is stopped; ``reason`` is shown to the user."""

    reason: str


Decision = Continue | Stop


@runtime_checkable
class Pruner(Protocol):
    """Decides at each rung; an immutable value.

    ``levels`` are the epochs of the rungs, ascending, each below the full budget. A pruner whose attribute
    ``sees_finished`` is true also gets the records of the trials that have finished, at the full budget's
    epoch.
    """

    @property
    def levels(self) -> tuple[int, ...]:
        """Epochs at which trials are compared."""

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Return whether the newcomer goes on, given the other records at its rung in any order."""


def check_number(
    name: str, value: Any, allowed: str, holds: Callable[[float], bool], *, whole: bool = False
) -> None:
    """Check that a pruner's argument is a finite number (``whole``: an integer) for which ``holds`` is true.

    Without the check, comparisons raise a TypeError, or the pruner never stops a trial.

    Raises:
        ValueError: it is not.
    """
    right_type = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (right_type and math.isfinite(value) and holds(value)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} = {value!r}; allowed: {kind} {allowed}")


def check_shares(name: str, shares: Any, allowed: str, holds: Callable[[float], bool]) -> None:
    """Check that a pruner's argument is a list of at least one number, for each of which ``holds`` is true.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(shares, list | tuple) or not shares:
        raise ValueError(f"{name} = {shares!r}; allowed: a list of numbers {allowed}")
    for share in shares:
        check_number(name, share, allowed, holds)


def accuracy_floor(classes: int, margin: float) -> float:
    """Return the accuracy below which a trial can always be stopped: chance + ``margin`` × (1 − chance).

    Raises:
        ValueError: ``margin`` outside [0, 1).
    """
    check_number("margin", margin, "≥ 0, < 1", lambda value: 0 <= value < 1)
    return 1 / classes + margin * (1 - 1 / classes)


def rung_levels(full_budget: int, shares: Sequence[float] = FIRST_RUNGS) -> tuple[int, ...]:
    """Return the epochs of the rungs: shares of the budget, rounded, in [1, full_budget), sorted, unique.

    Raises:
        ValueError: no share, or one outside (0, 1).
    """
    check_shares("shares", shares, "> 0, < 1", lambda share: 0 < share < 1)
    epochs = {max(1, round(share * full_budget)) for share in shares}
    return tuple(sorted(epoch for epoch in epochs if epoch < full_budget))


def on_front(records: Collection[RungRecord], newcomer: RungRecord) -> bool:
    """Return whether no record dominates the newcomer in cost and accuracy."""
    cost, accuracy = newcomer.cost, newcomer.accuracy
    return not any(
        r.cost <= cost and r.accuracy >= accuracy and (r.cost < cost or r.accuracy > accuracy)
        for r in records
    )


def nearest_in_cost(
    records: Collection[RungRecord], newcomer: RungRecord, count: int
) -> tuple[RungRecord, ...]:
    """Return the ``count`` records nearest in log(cost), and any as near as the farthest of them."""
    if len(records) <= count:
        return tuple(records)
    distances = [abs(math.log(record.cost / newcomer.cost)) for record in records]
    radius = sorted(distances)[count - 1] * (1 + 1e-12)
    return tuple(r for r, distance in zip(records, distances, strict=True) if distance <= radius)
