"""Asynchronous successive halving on accuracy alone (Li et al. 2020), as a control."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from tkd_search.optimize.pruners.base import Continue, Decision, RungRecord, Stop, check_number, rung_levels


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
