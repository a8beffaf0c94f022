"""Sizes, times and shares as people write them: ``500kB``, ``5ms``, ``10%``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9.]*)\s*$")


@dataclass(frozen=True)
class Quantity:
    """A kind of number that may be written with a unit.

    Attributes:
        name: what messages call it.
        units: lower-case unit → how many base units; '' is a bare number.
        example: a legal value for messages.
    """

    name: str
    units: Mapping[str, float]
    example: str

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return f"for instance {self.example} (units: {', '.join(unit for unit in self.units if unit)})"

    def parse(self, value: Any) -> float:
        """Text or a number in base units → that many base units.

        Raises:
            ValueError: it is neither, or the unit is not known.
        """
        if isinstance(value, int | float):
            return float(value)
        match = _NUMBER.match(str(value))
        if match is None or match[2].lower() not in self.units:
            raise ValueError(f"{value!r} is no {self.name}; write {self.allowed}")
        return float(match[1]) * self.units[match[2].lower()]


SIZE = Quantity(
    "size",
    {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "500kB",
)
MILLISECONDS = Quantity("time", {"": 1, "ms": 1, "s": 1e3, "us": 1e-3, "µs": 1e-3}, "5ms")
SHARE = Quantity("share", {"": 1, "%": 0.01}, "0.97 or 97%")
