"""The black box of a simulated search: predicts a configuration's learning curve.

Samplers propose points that are not recorded, so extremely randomised trees are fitted to the recording, one
output per epoch, the same for all searchers. The noise (of seeds and small validation sets) is the residual
curve of a recorded configuration with a similar prediction, drawn once per configuration. Residuals are whole
curves, which keeps the correlation between early rungs and the end.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from benchmarks.simulator.curves import Curves
from tkd_search.optimize.space import Choice, Distribution, IntDistribution, Space

Array = NDArray[np.float64]
_NEIGHBOURS = 25


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: bytes, and validation accuracy by epoch [E]."""

    bytes: int
    accuracy: Array


class BlackBox(Protocol):
    """Evaluates configurations; the same configuration gives the same outcome."""

    def evaluate(self, config: Mapping[str, Any]) -> Outcome:
        """Return the outcome of one configuration."""


def encode(space: Space, config: Mapping[str, Any]) -> Array:
    """Return a configuration as numbers: quantiles, one column per option, −1 where inactive."""
    cells: list[float] = []
    for leaf in space.order:
        distribution = space.leaves[leaf]
        if isinstance(distribution, Choice):
            cells.extend(float(leaf in config and config[leaf] == option) for option in distribution.options)
        else:
            cells.append(quantile(distribution, config[leaf]) if leaf in config else -1.0)
    return np.array(cells)


def quantile(distribution: Distribution, value: float) -> float:
    """Return the relative position of a number in its range, in [0, 1]."""
    if isinstance(distribution, Choice):
        raise TypeError("options have no order")
    low, high, at = float(distribution.low), float(distribution.high), float(value)
    if distribution.log and isinstance(distribution, IntDistribution):
        low, high = low - 0.5, high + 0.5
    if distribution.log:
        low, high, at = np.log(low), np.log(high), np.log(at)
    return float((at - low) / (high - low)) if high > low else 0.5


@dataclass(frozen=True)
class Fidelity:
    """Quality of the black box on held-out configurations (5 folds), at some epochs."""

    r_squared: Mapping[int, float]
    rank_correlation: Mapping[int, float]

    def __str__(self) -> str:
        parts = (
            f"epoch {epoch}: R² {share:.2f}, rank correlation {self.rank_correlation[epoch]:.2f}"
            for epoch, share in self.r_squared.items()
        )
        return "; ".join(parts)


class Surrogate:
    """Trees over a recording.

    Args:
        curves: the recording.
        seed: seed of the trees and of the residuals; it stays the same for all searchers and their seeds.
        size_of: exact bytes of a configuration; by default the recorded student that is nearest in its
            ``student.*`` leaves.
        trees: number of trees.
        noise: scale of the residuals, 1 for as recorded, 0 for none.
    """

    def __init__(
        self,
        curves: Curves,
        *,
        seed: int = 0,
        size_of: Callable[[Mapping[str, Any]], int] | None = None,
        trees: int = 100,
        noise: float = 1.0,
    ) -> None:
        self._curves, self._seed, self._noise = curves, seed, noise
        self.size_of: Callable[[Mapping[str, Any]], int] = size_of or _NearestSize(curves)
        self._forest = ExtraTreesRegressor(
            trees, min_samples_leaf=2, max_features=0.5, random_state=seed, n_jobs=1
        )
        self._inputs = np.array([encode(curves.space, config) for config in curves.configs])
        self._held_out = self._predict_held_out()
        self._forest.fit(self._inputs, curves.accuracy)
        self._known: dict[str, Outcome] = {}

    def evaluate(self, config: Mapping[str, Any]) -> Outcome:
        """Return the outcome: the trees' prediction plus a residual curve, clipped to [0, 1]."""
        key = json.dumps(config, sort_keys=True, default=str)
        if key not in self._known:
            predicted = self._forest.predict(encode(self._curves.space, config)[None])[0]
            residual = self._residual(predicted, key)
            accuracy = np.clip(predicted + self._noise * residual, 0.0, 1.0)
            self._known[key] = Outcome(int(self.size_of(config)), accuracy)
        return self._known[key]

    def mean_curves(self, configs: Sequence[Mapping[str, Any]]) -> Array:
        """Return the trees' predictions [n, E], without noise."""
        inputs = np.array([encode(self._curves.space, config) for config in configs])
        return np.asarray(self._forest.predict(inputs))

    def possible_ends(self, means: Array) -> Array:
        """Return the final accuracies [n, 25], all equally likely, given the means [n] at the end."""
        near = np.argsort(np.abs(self._held_out[:, -1] - means[:, None]), axis=1, kind="stable")
        residual = (self._curves.accuracy - self._held_out)[:, -1]
        return np.clip(means[:, None] + self._noise * residual[near[:, :_NEIGHBOURS]], 0.0, 1.0)

    @cached_property
    def fidelity(self) -> Fidelity:
        """Held-out quality at 1/9, 1/3 and all of the budget."""
        truth, epochs = self._curves.accuracy, self._curves.epochs
        shown = sorted({max(1, round(epochs / 9)), max(1, round(epochs / 3)), epochs})
        errors = ((truth - self._held_out) ** 2).sum(axis=0)
        spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
        return Fidelity(
            {e: float(1 - errors[e - 1] / max(spread[e - 1], 1e-12)) for e in shown},
            {e: float(spearmanr(truth[:, e - 1], self._held_out[:, e - 1]).statistic) for e in shown},
        )

    def _predict_held_out(self) -> Array:
        folds = KFold(min(5, len(self._curves)), shuffle=True, random_state=self._seed)
        predicted = cross_val_predict(self._forest, self._inputs, self._curves.accuracy, cv=folds)
        return np.asarray(predicted).reshape(self._curves.accuracy.shape)

    def _residual(self, predicted: Array, key: str) -> Array:
        """Return the residual curve of one of the recorded configurations with a similar final prediction."""
        distance = np.abs(self._held_out[:, -1] - predicted[-1])
        near = np.argsort(distance, kind="stable")[:_NEIGHBOURS]
        digest = hashlib.sha256(f"{self._seed}/{key}".encode()).digest()
        chosen = near[int.from_bytes(digest[:4], "big") % len(near)]
        return np.asarray(self._curves.accuracy[chosen] - self._held_out[chosen])


class Table:
    """Black box of the recorded rows: a configuration has the outcome of the nearest recorded one."""

    def __init__(self, curves: Curves) -> None:
        self._curves = curves
        self._inputs = np.array([encode(curves.space, config) for config in curves.configs])

    def nearest(self, config: Mapping[str, Any], without: frozenset[int] = frozenset()) -> int:
        """Return the index of the nearest recorded configuration, except those in ``without``."""
        distance = np.abs(self._inputs - encode(self._curves.space, config)).sum(axis=1)
        distance[list(without)] = np.inf
        return int(distance.argmin())

    def drawing(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Return a function that draws the nearest row without replacement.

        It starts again once every row was drawn.
        """
        drawn: set[int] = set()

        def draw(config: dict[str, Any]) -> dict[str, Any]:
            if len(drawn) == len(self._curves):
                drawn.clear()
            row = self.nearest(config, frozenset(drawn))
            drawn.add(row)
            return dict(self._curves.configs[row])

        return draw

    def evaluate(self, config: Mapping[str, Any]) -> Outcome:
        """Return the recorded outcome of the nearest configuration."""
        row = self.nearest(config)
        return Outcome(int(self._curves.bytes[row]), self._curves.accuracy[row])


class _NearestSize:
    """Bytes of the recorded student that is nearest in the student's leaves."""

    def __init__(self, curves: Curves) -> None:
        leaves = {k: d for k, d in curves.space.leaves.items() if k.startswith("student.")}
        self._space = Space(leaves or curves.space.leaves)
        self._inputs = np.array([encode(self._space, config) for config in curves.configs])
        self._bytes = curves.bytes

    def __call__(self, config: Mapping[str, Any]) -> int:
        distance = np.abs(self._inputs - encode(self._space, config)).sum(axis=1)
        return int(self._bytes[distance.argmin()])
