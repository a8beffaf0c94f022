"""Who is stopped early: frozen records in, a decision out.

A rung is a number of epochs at which trials are compared. A rule sees what was recorded at that rung and
one newcomer, and answers; it holds no state, so replaying the records in the order in which they came
reproduces every decision. Rules must keep the promises of ``tests/search/rung_conformance.py``: the answer
does not depend on the order of the records, and a newcomer that dominates every record goes on.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

FIRST_RUNGS = (1 / 9, 1 / 3)
"""Shares of the full budget at which plain halving by three compares."""

LATE_RUNGS = (1 / 3, 2 / 3)
"""Shares at which like is compared with like: among students of a size the ranks at 1/9 agree with those
at the end by .3 to .6 only, at 1/3 by .7 to .8, at 2/3 by .9 (docs/search-notes.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRecord:
    """What a trial had reached at a rung: validation accuracy in [0, 1] after ``epoch`` epochs (from 1)."""

    trial_id: str
    epoch: int
    bytes: int
    accuracy: float


@dataclass(frozen=True)
class Continue:
    """The trial goes on."""


@dataclass(frozen=True)
class Stop:
    """The trial ends here; ``reason`` is a sentence for the user."""

    reason: str


Decision = Continue | Stop


@runtime_checkable
class RungRule(Protocol):
    """Decides at each rung; a frozen value.

    ``levels`` are the epochs of the rungs, ascending, each below the full budget. A rule whose attribute
    ``sees_finished`` is true is also given the records of trials that had finished before, at the full
    budget's epoch.
    """

    @property
    def levels(self) -> tuple[int, ...]:
        """Epochs at which trials are compared."""

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Whether the newcomer goes on, given the other records at its rung (any order, itself excluded)."""


def check_number(
    name: str, value: Any, allowed: str, holds: Callable[[float], bool], *, whole: bool = False
) -> None:
    """Raise ValueError unless a rule's argument is a finite number, whole where asked, for which ``holds``.

    Where it is none, comparisons would raise a TypeError, or a rule would silently never stop anyone.
    """
    right_type = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (right_type and math.isfinite(value) and holds(value)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} = {value!r}; allowed: {kind} {allowed}")


def check_shares(name: str, shares: Any, allowed: str, holds: Callable[[float], bool]) -> None:
    """Raise ValueError unless a rule's argument is a list of numbers for which ``holds``, at least one."""
    if not isinstance(shares, list | tuple) or not shares:
        raise ValueError(f"{name} = {shares!r}; allowed: a list of numbers {allowed}")
    for share in shares:
        check_number(name, share, allowed, holds)


def accuracy_floor(classes: int, margin: float) -> float:
    """Accuracy below which nobody is protected: chance, and ``margin`` of the way from there to 1.

    Raises:
        ValueError: ``margin`` outside [0, 1).
    """
    check_number("margin", margin, "≥ 0, < 1", lambda value: 0 <= value < 1)
    return 1 / classes + margin * (1 - 1 / classes)


def rung_levels(full_budget: int, shares: Sequence[float] = FIRST_RUNGS) -> tuple[int, ...]:
    """Epochs of the rungs: each share of the budget, rounded, in [1, full_budget), ascending, no doubles.

    Raises:
        ValueError: no share, or one outside (0, 1).
    """
    check_shares("shares", shares, "> 0, < 1", lambda share: 0 < share < 1)
    epochs = {max(1, round(share * full_budget)) for share in shares}
    return tuple(sorted(epoch for epoch in epochs if epoch < full_budget))


@dataclass(frozen=True, kw_only=True)
class Never:
    """Nobody is stopped: every trial has the full budget."""

    levels: tuple[int, ...] = ()

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Always :class:`Continue`."""
        return Continue()

    @classmethod
    def build(cls, *, full_budget: int, classes: int) -> "Never":
        """The rule for a budget in epochs and a number of classes."""
        return cls()


@dataclass(frozen=True, kw_only=True)
class SingleObjective:
    """Plain asynchronous halving on accuracy, whatever the size (Li et al. 2020): a control.

    The best 1/η of a rung go on. It starves small students, which is why it is not the default.
    """

    levels: tuple[int, ...]
    eta: float = 3.0

    def __post_init__(self) -> None:
        check_number("eta", self.eta, "> 1", lambda eta: eta > 1)

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Stop unless fewer than 1/η of the rung (the newcomer counted) are more accurate."""
        accuracies = [record.accuracy for record in records if math.isfinite(record.accuracy)]
        better = sum(accuracy > newcomer.accuracy for accuracy in accuracies)
        kept = max(1, math.floor((len(accuracies) + 1) / self.eta))
        if len(accuracies) + 1 < self.eta or better < kept:
            return Continue()
        return Stop(
            f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs is {better + 1}. of "
            f"{len(accuracies) + 1}; the best {kept} go on"
        )

    @classmethod
    def build(cls, *, full_budget: int, classes: int, eta: float = 3.0) -> "SingleObjective":
        """The rule for a budget in epochs and a number of classes."""
        return cls(levels=rung_levels(full_budget), eta=eta)


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """Like with like: a trial is ranked by accuracy among the records of its size and just below.

    Only students no larger speak against a student: that a larger one is more accurate is no news. In
    this order:

    1. Below the accuracy ``floor`` a trial is stopped as soon as any record at the rung is above it
       (otherwise the smallest student, which nothing can dominate, would never stop).
    2. Until a rung holds ``min_records`` others that are no larger, nobody else is stopped.
    3. On the rung's front, a trial goes on.
    4. Else it goes on within the best share ``keep`` of its stratum: of the records that are no larger the
       ``stratum`` nearest in log(bytes) (and any as near as the farthest of them), the newcomer counted.

    Attributes:
        levels: epochs of the rungs.
        keep: share of a stratum that goes on, one per level (1/η).
        floor: accuracy in [0, 1] below which nobody is protected.
        stratum: number of neighbours in size.
        min_records: records of students no larger that are needed before ranks count.
    """

    levels: tuple[int, ...]
    keep: tuple[float, ...]
    floor: float
    stratum: int = 24
    min_records: int = 6

    def __post_init__(self) -> None:
        if len(self.keep) != len(self.levels):
            raise ValueError(f"keep has {len(self.keep)} shares for {len(self.levels)} rungs {self.levels}")
        for share in self.keep:
            check_number("keep", share, "> 0, ≤ 1", lambda value: 0 < value <= 1)
        check_number("stratum", self.stratum, "≥ 1", lambda count: count >= 1, whole=True)
        check_number("min_records", self.min_records, "≥ 0", lambda count: count >= 0, whole=True)

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Stop below the floor, or when neither on the rung's front nor among the best of its size."""
        known = [record for record in records if math.isfinite(record.accuracy)]
        if newcomer.accuracy < self.floor and any(record.accuracy >= self.floor for record in known):
            return Stop(
                f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs is below the floor "
                f"of {self.floor:.1%}"
            )
        no_larger = [record for record in known if record.bytes <= newcomer.bytes]
        if len(no_larger) < self.min_records or on_front(no_larger, newcomer):
            return Continue()
        share = self.keep[self.levels.index(newcomer.epoch)]
        rivals = nearest_in_size(no_larger, newcomer, self.stratum)
        better = sum(rival.accuracy > newcomer.accuracy for rival in rivals)
        kept = share * (len(rivals) + 1)
        if better < kept:
            return Continue()
        return Stop(
            f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs is {better + 1}. of {len(rivals) + 1} "
            f"of its size and just below; the best {share:.0%} go on"
        )

    @classmethod
    def build(
        cls,
        *,
        full_budget: int,
        classes: int,
        keep: Sequence[float] = (0.5, 0.4),
        margin: float = 0.05,
        stratum: int = 24,
        min_records: int = 6,
        shares: Sequence[float] = LATE_RUNGS,
    ) -> "Stratified":
        """The rule for a budget in epochs and a number of classes; ``floor`` = chance + margin."""
        levels = rung_levels(full_budget, shares)
        check_shares("keep", keep, "> 0, ≤ 1", lambda share: 0 < share <= 1)
        return cls(
            levels=levels,
            keep=tuple(keep)[len(keep) - len(levels) :],
            floor=accuracy_floor(classes, margin),
            stratum=stratum,
            min_records=min_records,
        )


def on_front(records: Collection[RungRecord], newcomer: RungRecord) -> bool:
    """Whether no record is at least as small and as accurate as the newcomer, and better in one."""
    size, accuracy = newcomer.bytes, newcomer.accuracy
    return not any(
        r.bytes <= size and r.accuracy >= accuracy and (r.bytes < size or r.accuracy > accuracy)
        for r in records
    )


def nearest_in_size(
    records: Collection[RungRecord], newcomer: RungRecord, count: int
) -> tuple[RungRecord, ...]:
    """The ``count`` records nearest in log(bytes), with all that are as near as the farthest of them."""
    if len(records) <= count:
        return tuple(records)
    distances = [abs(math.log(record.bytes / newcomer.bytes)) for record in records]
    radius = sorted(distances)[count - 1] * (1 + 1e-12)
    return tuple(r for r, distance in zip(records, distances, strict=True) if distance <= radius)
