"""Which member of a front to take: pure functions over its figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tkd_search.results.records import FrontMember


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What is asked of a student; None: no matter. Bytes, accuracy and ratio in [0, 1], milliseconds."""

    max_bytes: float | None = None
    min_accuracy: float | None = None
    max_ratio: float | None = None
    max_latency: float | None = None
    batch: int = 1

    def misses(self, member: FrontMember) -> dict[str, float]:
        """By how much a member misses each limit it misses, as a share of the limit (> 0).

        A latency that was not measured misses its limit infinitely.
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
        """A member's milliseconds at the batch size that is asked for, infinite where not measured."""
        return member.latency_ms.get(self.batch, math.inf)


def choose(front: Sequence[FrontMember], wish: Constraints, *, knee: bool = False) -> FrontMember | None:
    """The member to take, by validation figures alone; None where none fits.

    Of those that fit: the knee where that is asked for, else the smallest where an accuracy is asked for,
    else the most accurate (of equals the smallest).
    """
    fitting = sorted((one for one in front if not wish.misses(one)), key=lambda one: one.bytes)
    if not fitting:
        return None
    if knee:
        return knee_of(fitting)
    if wish.min_accuracy is not None:
        return fitting[0]
    return max(fitting, key=lambda one: (one.val_accuracy, -one.bytes))


def nearest_miss(front: Sequence[FrontMember], wish: Constraints) -> FrontMember | None:
    """The member whose worst miss is smallest; None for an empty front."""
    return min(front, key=lambda one: (max(wish.misses(one).values(), default=0.0), one.bytes), default=None)


def knee_of(front: Sequence[FrontMember]) -> FrontMember:
    """Where more bytes begin to buy little: farthest above the line between the front's two ends.

    Both axes (log bytes, accuracy) are scaled to [0, 1] over the front. Of fewer than three members the
    most accurate.
    """
    line = sorted(front, key=lambda one: one.bytes)
    if len(line) < 3:
        return max(line, key=lambda one: (one.val_accuracy, -one.bytes))
    first, last = line[0], line[-1]
    width = math.log(last.bytes / first.bytes) or 1.0
    height = (last.val_accuracy - first.val_accuracy) or 1.0

    def above(one: FrontMember) -> float:
        return (one.val_accuracy - first.val_accuracy) / height - math.log(one.bytes / first.bytes) / width

    return max(line, key=lambda one: (above(one), -one.bytes))
