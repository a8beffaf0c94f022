"""The search space: distributions by dotted key, and the conditions under which they apply.

A leaf may depend on others (a generator's parameter applies only where the method generates teachers).
Inactive leaves are absent from a configuration. A configuration comes from an Optuna trial, or from a point
of the unit cube (for quasi-random designs).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
)
from optuna.distributions import FloatDistribution as OptunaFloat
from optuna.distributions import IntDistribution as OptunaInt
from optuna.trial import BaseTrial

Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class FloatDistribution:
    """A number in [low, high], uniform or uniform in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log)

    def suggest(self, trial: BaseTrial, name: str) -> float:
        """Return the trial's suggestion."""
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))

    def at(self, u: float) -> float:
        """Return the value at quantile u in [0, 1]."""
        if self.log:
            value = math.exp(math.log(self.low) + u * math.log(self.high / self.low))
        else:
            value = self.low + u * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Return whether the value is a number within the range."""
        return _is_number(value) and self.low <= value <= self.high

    def to_optuna(self) -> BaseDistribution:
        """Return the same distribution as an Optuna object."""
        return OptunaFloat(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"a number in [{self.low:g}, {self.high:g}]{', log scale' if self.log else ''}"


@dataclass(frozen=True)
class IntDistribution:
    """A whole number in [low, high], uniform or uniform in its logarithm."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log)

    def suggest(self, trial: BaseTrial, name: str) -> int:
        """Return the trial's suggestion."""
        return int(trial.suggest_int(name, self.low, self.high, log=self.log))

    def at(self, u: float) -> int:
        """Return the value at quantile u in [0, 1]; every value has the same share where ``log`` is off."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = round(math.exp(low + u * (high - low)))
        else:
            value = self.low + math.floor(u * (self.high - self.low + 1))
        return min(max(value, self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Return whether the value is a whole number within the range."""
        return _is_number(value) and float(value).is_integer() and self.low <= value <= self.high

    def to_optuna(self) -> BaseDistribution:
        """Return the same distribution as an Optuna object."""
        return OptunaInt(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"a whole number in [{self.low}, {self.high}]{', log scale' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of several scalars (text, number, true/false, null), without order."""

    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("choice needs at least one option")
        bad = [option for option in self.options if not isinstance(option, Scalar)]
        if bad:
            raise ValueError(f"option {bad[0]!r} is not a text, a number, true, false or null")
        for i, option in enumerate(self.options):
            if any(_same(option, other) for other in self.options[:i]):
                raise ValueError(f"option {option!r} appears twice")

    def suggest(self, trial: BaseTrial, name: str) -> Scalar:
        """Return the trial's suggestion."""
        option: Scalar = trial.suggest_categorical(name, self.options)
        return option

    def at(self, u: float) -> Scalar:
        """Return the option at quantile u in [0, 1]; every option has the same share."""
        return self.options[min(int(u * len(self.options)), len(self.options) - 1)]

    def contains(self, value: Any) -> bool:
        """Return whether the value is one of the options (1 and true are different)."""
        return any(_same(value, option) for option in self.options)

    def to_optuna(self) -> BaseDistribution:
        """Return the same distribution as an Optuna object."""
        return CategoricalDistribution(self.options)

    def __str__(self) -> str:
        return f"one of {', '.join(repr(option) for option in self.options)}"


Distribution = FloatDistribution | IntDistribution | Choice


@dataclass(frozen=True)
class Condition:
    """Makes ``leaf`` active only where ``parent`` is active and has one of ``values``."""

    leaf: str
    parent: str
    values: tuple[Scalar, ...]

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Return whether a (partial) configuration has the parent at one of the values."""
        return self.parent in config and any(_same(config[self.parent], value) for value in self.values)


@dataclass(frozen=True)
class Space:
    """Searched leaves by dotted key, with their conditions; several conditions on a leaf must all hold.

    Raises:
        ValueError: a condition names an unknown leaf, or the conditions form a cycle.
    """

    leaves: Mapping[str, Distribution] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        for condition in self.conditions:
            for name in (condition.leaf, condition.parent):
                if name not in self.leaves:
                    raise ValueError(f"condition on {condition.leaf}: {name} is not a searched leaf")
        _ = self.order

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Leaves, each after those it depends on, otherwise by name: the file's order has no effect."""
        left = sorted(self.leaves)
        parents = {leaf: {c.parent for c in self.conditions if c.leaf == leaf} for leaf in left}
        done: list[str] = []
        while left:
            ready = [leaf for leaf in left if parents[leaf] <= set(done)]
            if not ready:
                raise ValueError(f"the conditions form a cycle: {', '.join(left)}")
            done.extend(ready)
            left = [leaf for leaf in left if leaf not in ready]
        return tuple(done)

    @cached_property
    def _conditions_of(self) -> Mapping[str, tuple[Condition, ...]]:
        return {leaf: tuple(c for c in self.conditions if c.leaf == leaf) for leaf in self.leaves}

    def active(self, leaf: str, config: Mapping[str, Any]) -> bool:
        """Return whether a leaf applies, given the values of the leaves it depends on."""
        return all(condition.holds(config) for condition in self._conditions_of[leaf])

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Return a flat configuration of the active leaves, suggested by an Optuna trial."""
        config: dict[str, Any] = {}
        for leaf in self.order:
            if self.active(leaf, config):
                config[leaf] = self.leaves[leaf].suggest(trial, leaf)
        return config

    def at(self, point: Sequence[float], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the configuration at a point of the unit cube, one coordinate per leaf in ``order``.

        Args:
            point: coordinates in [0, 1], as many as leaves; those of inactive leaves are unused.
            given: fixed values; inactive ones are dropped.
        """
        config: dict[str, Any] = {}
        for leaf, u in zip(self.order, point, strict=True):
            if self.active(leaf, config):
                config[leaf] = given[leaf] if given and leaf in given else self.leaves[leaf].at(float(u))
        return config

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Return whether a configuration has exactly the active leaves, each within its distribution."""
        expected = {leaf for leaf in self.order if self.active(leaf, config)}
        return set(config) == expected and all(self.leaves[k].contains(v) for k, v in config.items())

    def to_optuna(self) -> dict[str, BaseDistribution]:
        """Return every leaf's distribution as an Optuna object, without conditions."""
        return {leaf: self.leaves[leaf].to_optuna() for leaf in self.order}


def parse_distribution(value: Any) -> Distribution | None:
    """Parse ``{float: [0.1, 10], log: true}``, ``{int: [1, 10]}`` or ``{choice: [a, b]}``.

    Returns:
        The distribution, or None where the value does not have the form of one.

    Raises:
        ValueError: the value has the form of a distribution, but an illegal content.
    """
    if not isinstance(value, Mapping):
        return None
    kinds = [kind for kind in ("float", "int", "choice") if kind in value]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise ValueError(f"{kinds[0]} and {kinds[1]} together; allowed: one of them")
    kind = kinds[0]
    extra = sorted(str(key) for key in set(value) - ({"choice"} if kind == "choice" else {kind, "log"}))
    if extra:
        allowed = "choice alone" if kind == "choice" else f"{kind} and log"
        raise ValueError(f"unknown key {extra[0]!r}; allowed: {allowed}")
    body = value[kind]
    if not isinstance(body, list | tuple):
        raise ValueError(f"{kind} takes a list, not {body!r}")
    return Choice(tuple(body)) if kind == "choice" else _range(kind, body, value.get("log", False))


def _range(kind: str, body: Sequence[Any], log: Any) -> Distribution:
    if len(body) != 2 or not all(_is_number(end) for end in body):
        raise ValueError(f"{kind} takes two numbers, [low, high], not {list(body)!r}")
    if not isinstance(log, bool):
        raise ValueError(f"log is true or false, not {log!r}")
    if kind == "float":
        return FloatDistribution(float(body[0]), float(body[1]), log)
    if not all(float(end).is_integer() for end in body):
        raise ValueError(f"int takes whole numbers, not {list(body)!r}")
    return IntDistribution(int(body[0]), int(body[1]), log)


def _check_range(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"[{low}, {high}]: both ends must be finite")
    if low > high:
        raise ValueError(f"low {low:g} is above high {high:g}")
    if log and low <= 0:
        raise ValueError(f"a log scale needs low > 0, not {low:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same(a: Any, b: Any) -> bool:
    """Return whether two values are equal, where 1 and true differ and 1 and 1.0 do not."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
