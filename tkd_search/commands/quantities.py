"""Sizes, times and shares as people write them: ``500kB``, ``5ms``, ``10%``."""

import re
from collections.abc import Mapping
from typing import Any

import click

_BYTES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MILLISECONDS = {"": 1, "ms": 1, "s": 1e3, "us": 1e-3, "µs": 1e-3}
_SHARES = {"": 1, "%": 0.01}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9.]*)\s*$")


class Quantity(click.ParamType):
    """A number with a unit, converted to the base unit as a float.

    Args:
        name: what messages call it.
        units: lower-case unit → how many base units; '' is a bare number.
        example: a legal value for messages.
    """

    def __init__(self, name: str, units: Mapping[str, float], example: str) -> None:
        self.name, self._units, self._example = name, units, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Text → number; anything else is a usage error (exit code 2)."""
        if isinstance(value, int | float):
            return float(value)
        match = _NUMBER.match(str(value))
        if match is None or match[2].lower() not in self._units:
            units = ", ".join(unit for unit in self._units if unit)
            self.fail(
                f"{value!r} is no {self.name}; write for instance {self._example} (units: {units})",
                param,
                ctx,
            )
        return float(match[1]) * self._units[match[2].lower()]


SIZE = Quantity("size", _BYTES, "500kB")
MILLISECONDS = Quantity("time", _MILLISECONDS, "5ms")
SHARE = Quantity("share", _SHARES, "0.97 or 97%")
