"""Sizes, times and shares with units: ``500kB``, ``5ms``, ``10%``."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9.]*)\s*$")


@dataclass(frozen=True)
class Quantity:
    """A number that may be written with a unit.

    Attributes:
        name: its name in messages.
        units: lower-case unit → number of base units; '' is a number without a unit.
        example: a legal value for messages.
        most: largest legal value in base units.
    """

    name: str
    units: Mapping[str, float]
    example: str
    most: float = math.inf

    @property
    def allowed(self) -> str:
        """Legal values in words."""
        return f"for instance {self.example} (units: {', '.join(unit for unit in self.units if unit)})"

    def parse(self, value: Any) -> float:
        """Return text with a unit, or a number in base units, as a number of base units.

        Raises:
            ValueError: no number, an unknown unit, or above ``most``.
        """
        if isinstance(value, int | float):
            return self._bounded(float(value), value)
        match = _NUMBER.match(str(value))
        if match is None or match[2].lower() not in self.units:
            raise ValueError(f"{value!r} is not a {self.name}; write {self.allowed}")
        return self._bounded(float(match[1]) * self.units[match[2].lower()], value)

    def _bounded(self, number: float, value: Any) -> float:
        if number > self.most:
            raise ValueError(f"{value!r} is too large for a {self.name}; write {self.allowed}")
        return number


SIZE = Quantity(
    "size",
    {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "500kB",
)
MILLISECONDS = Quantity("time", {"": 1, "ms": 1, "s": 1e3, "us": 1e-3, "µs": 1e-3}, "5ms")
SHARE = Quantity("share", {"": 1, "%": 0.01}, "0.97 or 97%", most=1)


def metric_text(metric: str) -> str:
    """Return the name of a metric for people: ``accuracy``, ``balanced accuracy``, ``macro F1``."""
    return metric.replace("_", " ").replace("f1", "F1")


def human_bytes(count: float) -> str:
    """Return a size in decimal units with three significant digits: ``128 kB``, ``1.54 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def milliseconds(time: float) -> str:
    """Return a time with three significant digits: ``0.0421 ms``, ``12.5 ms``."""
    return f"{time:.3g} ms"


def ratio_text(ratio: float) -> str:
    """Return a student's bytes ÷ the big model's with three decimals, below a hundredth with four."""
    return f"{ratio:.3f}" if ratio >= 0.01 else f"{ratio:.4f}"


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share of 1 as a percentage, a dash for None and NaN."""
    return "–" if share is None or share != share else f"{share:.{digits}%}"
