"""A pruner that stops no trial."""

from collections.abc import Collection
from dataclasses import dataclass

from tkd_search.optimize.pruners.base import Continue, Decision, RungRecord


@dataclass(frozen=True, kw_only=True)
class Never:
    """Gives every trial the full budget."""

    levels: tuple[int, ...] = ()

    def decide(self, records: Collection[RungRecord], newcomer: RungRecord) -> Decision:
        """Return :class:`Continue`."""
        return Continue()

    @classmethod
    def build(cls, *, full_budget: int, classes: int) -> "Never":
        """Return the pruner; the arguments have no effect."""
        return cls()
