"""Successive halving among students of similar cost."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tkd_search.optimize.pruners.base import (
    Continue,
    Decision,
    RungRecord,
    Stop,
    accuracy_floor,
    check_number,
    check_shares,
    nearest_in_cost,
    on_front,
    rung_levels,
)

LATE_RUNGS = (1 / 3, 2 / 3)
"""Shares of the budget. Among students of similar size the rank correlation with the end is only .3 to .6 at
1/9, .7 to .8 at 1/3 and .9 at 2/3 (docs/search-notes.md)."""


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """Ranks a trial by accuracy among the records of its cost and just below.

    Costlier students are not compared, because they are expected to be more accurate. In this order:

    1. Below the accuracy ``floor`` a trial is stopped as soon as any record at the rung is above it
       (otherwise the cheapest student, which nothing can dominate, would never be stopped).
    2. Until a rung holds ``min_records`` others that cost no more, a trial goes on.
    3. On the rung's front, a trial goes on.
    4. Else it goes on within the best share ``keep`` of its stratum: of the records that cost no more the
       ``stratum`` nearest in log(cost) (and any as near as the farthest of them), and the trial itself.

    Attributes:
        levels: epochs of the rungs.
        keep: share of a stratum that goes on, one per level (1/η).
        floor: accuracy in [0, 1] below which rules 2 to 4 do not apply.
        stratum: number of neighbours in cost.
        min_records: least number of records of students that cost no more for rules 3 and 4.
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
        """Stop below the floor, or where the trial is neither on the front nor among the best of its cost."""
        known = [record for record in records if math.isfinite(record.accuracy)]
        if newcomer.accuracy < self.floor and any(record.accuracy >= self.floor for record in known):
            return Stop(
                f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs is below the floor "
                f"of {self.floor:.1%}"
            )
        no_costlier = [record for record in known if record.cost <= newcomer.cost]
        if len(no_costlier) < self.min_records or on_front(no_costlier, newcomer):
            return Continue()
        share = self.keep[self.levels.index(newcomer.epoch)]
        rivals = nearest_in_cost(no_costlier, newcomer, self.stratum)
        better = sum(rival.accuracy > newcomer.accuracy for rival in rivals)
        kept = share * (len(rivals) + 1)
        if better < kept:
            return Continue()
        return Stop(
            f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs is {better + 1}. of {len(rivals) + 1} "
            f"of its cost and just below; the best {share:.0%} go on"
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
        """Return the pruner for a budget in epochs and a number of classes (see ``accuracy_floor``)."""
        levels = rung_levels(full_budget, shares)
        check_shares("keep", keep, "> 0, ≤ 1", lambda share: 0 < share <= 1)
        return cls(
            levels=levels,
            keep=tuple(keep)[max(0, len(keep) - len(levels)) :],
            floor=accuracy_floor(classes, margin),
            stratum=stratum,
            min_records=min_records,
        )
