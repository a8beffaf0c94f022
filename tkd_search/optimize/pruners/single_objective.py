"""Asynchronous successive halving on accuracy alone (Li et al. 2020), for comparison."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from tkd_search.optimize.pruners.base import Continue, Decision, RungRecord, Stop, check_number, rung_levels


@dataclass(frozen=True, kw_only=True)
class SingleObjective:
    """Lets the most accurate 1/η of a rung go on, whatever their cost.

    It stops most cheap students, and is not the default for that reason.
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
        """Return the pruner for a budget in epochs; ``classes`` has no effect."""
        return cls(levels=rung_levels(full_budget), eta=eta)
