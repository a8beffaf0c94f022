"""Curves of whole searches, and how much sooner one reaches a hypervolume than another."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SHARE = 0.98
"""Of the hypervolume that the loop ends with: the target that every search is timed to."""


class Point(NamedTuple):
    """A search after the end of a trial: seconds since its start, epochs of students, hypervolume."""

    seconds: float
    epochs: int
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One search with one seed; points in the order of time."""

    name: str
    seed: int
    points: tuple[Point, ...]

    def reached(self, target: float) -> Point:
        """Return the first point with at least this hypervolume, infinite where there is none."""
        reached = (point for point in self.points if point.hypervolume >= target)
        return next(reached, Point(math.inf, 0, target))


def figures(curves: Sequence[Curve]) -> dict[str, dict[str, float]]:
    """Return medians over seeds by name of the search.

    ``seconds`` and ``epochs`` are those to ``SHARE`` of the hypervolume that the loop of the same seed ends
    with; infinite or 0 where most seeds miss it. ``over_ours`` is the median of the seeds' ratios of seconds.
    """
    targets = {curve.seed: SHARE * curve.points[-1].hypervolume for curve in curves if curve.name == "loop"}
    reached: dict[str, dict[int, Point]] = {}
    for curve in curves:
        if curve.seed in targets:
            reached.setdefault(curve.name, {})[curve.seed] = curve.reached(targets[curve.seed])
    found = {}
    for name, points in reached.items():
        last = [curve.points[-1] for curve in curves if curve.name == name]
        found[name] = {
            "hypervolume": statistics.median(point.hypervolume for point in last),
            "whole_seconds": statistics.median(point.seconds for point in last),
            "seconds": statistics.median(point.seconds for point in points.values()),
            "epochs": statistics.median(point.epochs for point in points.values()),
            "over_ours": _over_ours(points, reached.get("ours", {})),
        }
    return found


def _over_ours(points: Mapping[int, Point], ours: Mapping[int, Point]) -> float:
    ratios = [points[seed].seconds / ours[seed].seconds for seed in points if seed in ours]
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    return statistics.median(known) if known else math.nan


def table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the figures as lines of text."""
    lines = [f"{'search':24s} {'to target':>10s} {'epochs':>7s} {'÷ ours':>7s} {'whole':>8s} {'final':>7s}"]
    for name, of in found.items():
        lines.append(
            f"{name:24s} {of['seconds']:8.0f} s {of['epochs']:7.0f} {of['over_ours']:7.2f} "
            f"{of['whole_seconds']:6.0f} s {of['hypervolume']:7.4f}"
        )
    return lines
