"""A pruner that stops no trial."""

from collections.abc import Collection
from dataclasses import dataclass

from tkd_search.optimize.pruners.base import Continue, Decision, RungRecord


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
