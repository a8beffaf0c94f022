"""Selection of one student from a front: pure functions of the members' figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tkd_search.results.records import FrontMember


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Limits on a student; None is no limit.

    ``max_bytes`` in bytes; ``min_accuracy`` (validation) and ``max_ratio`` in [0, 1]; ``max_latency`` in
    milliseconds at batch size ``batch``.
    """

    max_bytes: float | None = None
    min_accuracy: float | None = None
    max_ratio: float | None = None
    max_latency: float | None = None
    batch: int = 1

    def misses(self, member: FrontMember) -> dict[str, float]:
        """Return limit → relative excess (> 0) for each limit that a member breaks.

        The excess of a latency that was not measured is infinite.
        """
        above = {
            "max-bytes": (member.bytes, self.max_bytes),
            "max-ratio": (member.ratio, self.max_ratio),
            "max-latency": (self.latency(member), self.max_latency),
        }
        found = {
            name: value / limit - 1 if limit else math.inf
            for name, (value, limit) in above.items()
            if limit is not None and not value <= limit
        }
        if self.min_accuracy is not None and not member.val_accuracy >= self.min_accuracy:
            missing = 1 - member.val_accuracy / self.min_accuracy
            found["min-accuracy"] = missing if math.isfinite(missing) else math.inf
        return found

    def latency(self, member: FrontMember) -> float:
        """Return a member's milliseconds at batch size ``batch``, infinite where not measured."""
        return member.latency_ms.get(self.batch, math.inf)


def select(
    front: Sequence[FrontMember], constraints: Constraints, *, knee: bool = False
) -> FrontMember | None:
    """Return one member that keeps all constraints, by validation figures alone; None where no member does.

    Of the members that keep them: the knee with ``knee``, else the cheapest with ``min_accuracy``, else the
    most accurate (of equals the cheapest), by the cost that the search minimised.
    """
    fitting = sorted((one for one in front if not constraints.misses(one)), key=lambda one: one.cost)
    if not fitting:
        return None
    if knee:
        return knee_of(fitting)
    if constraints.min_accuracy is not None:
        return fitting[0]
    return max(fitting, key=lambda one: (one.val_accuracy, -one.cost))


def nearest_miss(front: Sequence[FrontMember], constraints: Constraints) -> FrontMember | None:
    """Return the member whose largest excess over a limit is smallest; None for an empty front."""

    def excess(one: FrontMember) -> tuple[float, float]:
        return max(constraints.misses(one).values(), default=0.0), one.cost

    return min(front, key=excess, default=None)


def knee_of(front: Sequence[FrontMember]) -> FrontMember:
    """Return the knee of a front: the member farthest above the line between the front's two ends.

    Both axes (log cost, accuracy) are scaled to [0, 1] over the front. Fewer than three members have no
    knee; the most accurate is returned.
    """
    line = sorted(front, key=lambda one: one.cost)
    if len(line) < 3:
        return max(line, key=lambda one: (one.val_accuracy, -one.cost))
    first, last = line[0], line[-1]
    width = math.log(last.cost / first.cost) or 1.0
    height = (last.val_accuracy - first.val_accuracy) or 1.0

    def above(one: FrontMember) -> float:
        return (one.val_accuracy - first.val_accuracy) / height - math.log(one.cost / first.cost) / width

    return max(line, key=lambda one: (above(one), -one.cost))
