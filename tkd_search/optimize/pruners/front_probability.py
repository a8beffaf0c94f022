"""A pruner that stops trials with a small probability of reaching the front.

It fits a line to the pairs (error at the rung, error at the end) of finished trials, and stops a trial when
its probability to end above every finished student of at most its cost is small. That bounds the regret.
Where early epochs predict little, no trial is stopped; where they predict much, most are.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr  # type: ignore[import-untyped]

from tkd_search.optimize.learning_curves import Line, fit_line, log_error
from tkd_search.optimize.pruners.base import (
    Continue,
    Decision,
    RungRecord,
    Stop,
    accuracy_floor,
    check_number,
    nearest_in_cost,
    on_front,
    rung_levels,
)

FIVE_RUNGS = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6)
"""Shares of the budget. Many rungs cost little regret, since each decision has a known error probability."""


@dataclass(frozen=True, kw_only=True)
class FrontProbability:
    """Stops a trial whose probability of reaching the front is small.

    In this order:

    1. Below the accuracy ``floor`` a trial is stopped as soon as any record at the rung is above it.
    2. On the rung's front (among students that cost no more) a trial goes on.
    3. Until ``min_finished`` trials that passed this rung have finished, a trial goes on.
    4. Else it is stopped when its probability to end above all finished students that cost no more is below
       ``chance``.

    Attributes:
        levels: epochs of the rungs.
        full_budget: epochs of a whole trial; the epoch of the records of finished trials.
        floor: accuracy in [0, 1] below which rules 2 to 4 do not apply.
        chance: least probability with which a trial goes on.
        neighbours: number of finished trials, the nearest in log(cost), to which the line is fitted: cheap
            and costly students differ in what a rung predicts.
        min_finished: least number of finished trials for rule 4.
    """

    levels: tuple[int, ...]
    full_budget: int
    floor: float
    chance: float = 0.01
    neighbours: int = 24
    min_finished: int = 8

    def __post_init__(self) -> None:
        check_number("chance", self.chance, "≥ 0, < 1", lambda chance: 0 <= chance < 1)
        check_number("min_finished", self.min_finished, "≥ 2", lambda count: count >= 2, whole=True)
        least = self.min_finished  # with fewer neighbours rule 4 would never apply
        allowed = f"≥ min_finished = {least}"
        check_number("neighbours", self.neighbours, allowed, lambda count: count >= least, whole=True)

    @property
    def sees_finished(self) -> bool:
        """True: the pruner needs the records of finished trials."""
        return True

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Stop below the floor, or where the final front has become unlikely."""
        known = [record for record in records if math.isfinite(record.accuracy)]
        rung = [record for record in known if record.epoch == newcomer.epoch]
        if newcomer.accuracy < self.floor and any(record.accuracy >= self.floor for record in rung):
            return Stop(
                f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs is below the floor "
                f"of {self.floor:.1%}"
            )
        if on_front([record for record in rung if record.cost <= newcomer.cost], newcomer):
            return Continue()
        finished = {record.trial_id: record for record in known if record.epoch == self.full_budget}
        like = nearest_in_cost([r for r in rung if r.trial_id in finished], newcomer, self.neighbours)
        pairs = sorted((r.accuracy, finished[r.trial_id].accuracy) for r in like)
        rivals = [record.accuracy for record in finished.values() if record.cost <= newcomer.cost]
        if len(pairs) < self.min_finished or not rivals:
            return Continue()
        chance = chance_above(fit_line(pairs), newcomer.accuracy, max(rivals))
        if chance >= self.chance:
            return Continue()
        return Stop(
            f"{newcomer.accuracy:.1%} after {newcomer.epoch} epochs leaves a chance of {chance:.1%} to end "
            f"above {max(rivals):.1%}, the best so far of students that cost no more"
        )

    @classmethod
    def build(
        cls,
        *,
        full_budget: int,
        classes: int,
        chance: float = 0.01,
        neighbours: int = 24,
        margin: float = 0.05,
        min_finished: int = 8,
        shares: Sequence[float] = FIVE_RUNGS,
    ) -> "FrontProbability":
        """Return the pruner for a budget in epochs and a number of classes (see ``accuracy_floor``)."""
        return cls(
            levels=rung_levels(full_budget, shares),
            full_budget=full_budget,
            floor=accuracy_floor(classes, margin),
            chance=chance,
            neighbours=neighbours,
            min_finished=min_finished,
        )


def chance_above(line: Line, accuracy: float, target: float) -> float:
    """Return the probability to end above the target, given the accuracy at the rung (Student's t)."""
    needed = (log_error(target) - line(log_error(accuracy))) / math.sqrt(line.variance)
    return float(stdtr(line.freedom, np.float64(needed)))
