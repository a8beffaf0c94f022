"""The EHVI sampler: suggests the configuration with the largest expected hypervolume improvement.

Only accuracy is uncertain; a cost is nearly a function of a few leaves. One Gaussian process predicts the log
error at the full budget, from whole trials and from stopped ones with extrapolated errors (and the variance
of the extrapolation, see :func:`learning_curves.extrapolate`); another predicts the log cost. Running trials
count as if they ended as predicted. A suggestion is a function of the trials and the seed: what is kept
between suggestions saves time and does not change results, so a resumed search makes the same suggestions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tkd_search.optimize.learning_curves import ERROR_OFFSET, Extrapolation
from tkd_search.optimize.pareto import CostScale, nondominated_mask, unit_square
from tkd_search.optimize.samplers.feasibility import Feasibility
from tkd_search.optimize.samplers.hypervolume_gain import NODES, WEIGHTS, area_gain
from tkd_search.optimize.samplers.surrogate import MIN_TRIALS, Surrogate, SurrogateFitter, usable_trials
from tkd_search.optimize.space import Space
from tkd_search.optimize.space_encoding import Array, Cube
from tkd_search.optimize.student_costs import CostOf, Costs, student_columns
from tkd_search.optimize.study_trial import StudyTrial

_UNCERTAINTY_WEIGHT = 1e-7
"""Weight of the standard deviation in a candidate's value: it orders candidates without expected gain."""
_MIN_FEASIBILITY = 0.5
"""Least feasibility of a target cost, and of another sampler's suggestion."""
_COST_ROUNDS = 16
"""Maximum number of rounds of building candidates until the best one's cost is exact."""


@dataclass(frozen=True, kw_only=True)
class EHVISettings:
    """Settings of the EHVI sampler: computing time per suggestion, and kinds of suggestions.

    Attributes:
        memory: maximum number of trials in the model: half of them the best, half drawn at random.
        refit_every: finished trials between fits of the hyperparameters.
        random: candidates drawn uniformly.
        local: candidates made from good trials by small changes.
        polish: candidates made from the best candidates.
        aimed: share of the model's own suggestions with a target cost drawn uniformly in log(cost). The
            lowest costs add the most hypervolume, but users need students of every cost; and target costs
            spread the suggestions where the model is too optimistic at one cost.
        tpe: share of suggestions left to Optuna's TPE once 30 trials are usable, to diversify the proposals:
            they reveal errors of this model.
        builds: students built at once to get their exact cost, until the best candidate's is known: at most
            sixteen times, twice per suggestion.

    Raises:
        ValueError: a number below 1, or a share outside [0, 1].
    """

    memory: int = 200
    refit_every: int = 10
    random: int = 500
    local: int = 1000
    polish: int = 500
    aimed: float = 0.5
    tpe: float = 0.25
    builds: int = 2

    def __post_init__(self) -> None:
        values = asdict(self)
        shares = {name: values.pop(name) for name in ("aimed", "tpe")}
        wrong = {k: v for k, v in values.items() if v < 1} | {
            k: v for k, v in shares.items() if not 0 <= v <= 1
        }
        if wrong:
            allowed = f"numbers ≥ 1, {' and '.join(shares)} in [0, 1]"
            raise ValueError(f"sampler ehvi: {wrong}; allowed: {allowed}")


@dataclass(frozen=True)
class _TargetCost:
    """A target in log10(cost), and the width of the weight around it."""

    log_cost: float
    width: float


@dataclass(frozen=True)
class _State:
    """The inputs of a suggestion: the front [m, 2] in the unit square, the surrogate, the trials so far."""

    front: Array
    surrogate: Surrogate
    tried: frozenset[bytes]
    feasibility: Feasibility


class EHVISampler:
    """Suggests configurations of a space; see the module.

    Args:
        space: the searched leaves.
        levels: epochs of the rungs.
        full_budget: epochs of a whole trial.
        scale: of the costs; default: three decades below 1.1 × the highest cost so far.
        classes: number of classes; default: chance accuracy is 0.
        cost_of: exact cost of a configuration; default: predicted costs.
        settings: computing time per suggestion, and kinds of suggestions.
    """

    def __init__(
        self,
        space: Space,
        *,
        levels: Sequence[int],
        full_budget: int,
        scale: CostScale | None = None,
        classes: int | None = None,
        cost_of: CostOf | None = None,
        settings: EHVISettings | None = None,
    ) -> None:
        self._cube = Cube(space)
        self._of_student = np.isin(self._cube.leaf_of_feature, student_columns(self._cube))
        self._costs = Costs(self._cube, cost_of) if cost_of else None
        self._scale, self._classes = scale, classes
        self._settings = settings or EHVISettings()
        self._fitter = SurrogateFitter(
            self._cube,
            levels,
            full_budget,
            memory=self._settings.memory,
            refit_every=self._settings.refit_every,
        )

    def suggest(self, trials: Sequence[StudyTrial], seed: int) -> dict[str, object] | None:
        """Return the next configuration, or None with fewer than ``MIN_TRIALS`` usable trials."""
        rng = np.random.default_rng(seed)
        fitter = self._fitter
        extrapolation = fitter.extrapolation(trials)
        usable = usable_trials(trials, extrapolation)
        if len(usable) < MIN_TRIALS or not self._cube.dimensions:
            return None
        if self._costs:
            self._costs.reset()
        self._highest = max(float(t.cost or 0) for t in usable)
        running = [t for t in trials if t.state == "running" and t.number not in extrapolation.log_error]
        surrogate = fitter.surrogate(trials, usable, extrapolation, running, rng)
        own = [t for t in trials if t.number >= 0]  # negative numbers are trials of earlier searches
        front = self._front(own, extrapolation, running, surrogate)
        best = sorted(zip(fitter.ranks(usable, extrapolation), usable, strict=True), key=lambda pair: pair[0])
        elite = np.array([fitter.point(t) for _, t in best[: max(20, len(usable) // 8)]])
        tried = frozenset(_keys(fitter.features(own)))
        state = _State(front, surrogate, tried, self._feasibility(own))
        return self._cube.decode(self._best_candidate(elite, state, rng))

    def accepts(self, config: Mapping[str, object], trials: Sequence[StudyTrial]) -> bool:
        """Return whether another sampler's suggestion is worth a trial.

        It must be new and its student buildable. Of similar students, at least as many must have kept the
        limits (of latency) as not.
        """
        own = [t for t in trials if t.number >= 0]
        features = self._cube.features(self._cube.point(config)[None])
        if _keys(features)[0] in _keys(self._fitter.features(own)):
            return False
        if self._feasibility(own)(features[:, self._of_student])[0] < _MIN_FEASIBILITY:
            return False
        return self._costs is None or self._costs.can_build(config)

    def _feasibility(self, trials: list[StudyTrial]) -> Feasibility:
        refused = [t for t in trials if t.state == "stopped" and not t.curve]
        students = self._fitter.features([t for t in trials if t.curve])[:, self._of_student]
        return Feasibility(students, self._fitter.features(refused)[:, self._of_student])

    def _front(
        self,
        trials: Sequence[StudyTrial],
        extrapolation: Extrapolation,
        running: list[StudyTrial],
        surrogate: Surrogate,
    ) -> Array:
        """Return the front in the unit square: whole trials, and running ones with expected accuracy."""
        complete = [t for t in trials if t.state == "complete" and t.cost]
        extrapolated = [t for t in trials if t.state == "running" and t.number in extrapolation.log_error]
        costs = [float(t.cost or 1) for t in [*complete, *extrapolated]]
        values = [t.accuracy for t in complete] + [extrapolation.accuracy(t.number) for t in extrapolated]
        if running:
            points = np.array([self._fitter.point(t) for t in running])
            costs += (10 ** self._log_cost(points, surrogate, builds=len(running))).tolist()
            values += _accuracy(surrogate.error.predict(self._fitter.features(running))[0]).tolist()
        if not costs:
            return np.empty((0, 2))
        self._highest = max(self._highest, *costs)
        square = self._square(np.array(costs), np.array(values))
        return np.unique(square[nondominated_mask(square)], axis=0)

    def _best_candidate(self, elite: Array, state: _State, rng: np.random.Generator) -> Array:
        settings = self._settings
        candidates = self._snapped(
            [
                rng.random((settings.random, self._cube.dimensions)),
                self._changed(elite, settings.local, rng, share=0.3, step=0.2),
            ]
        )
        target = self._target_cost(candidates, state, rng)
        best = candidates[self._order(candidates, state, target)[:12]]
        polished = self._snapped([best, self._changed(best, settings.polish, rng, share=0.15, step=0.07)])
        return np.asarray(polished[self._order(polished, state, target)[0]])

    def _snapped(self, parts: list[Array]) -> Array:
        points = np.vstack(parts)
        return self._costs.snap(points) if self._costs else points

    def _target_cost(self, candidates: Array, state: _State, rng: np.random.Generator) -> _TargetCost | None:
        """Return a target cost for a share of the suggestions: one of a feasible candidate, else None."""
        if rng.random() >= self._settings.aimed:
            return None
        costs = self._log_cost(candidates, state.surrogate)
        feasible = state.feasibility(self._cube.features(candidates)[:, self._of_student])
        costs = costs[(feasible >= min(_MIN_FEASIBILITY, feasible.max())) & np.isfinite(costs)]
        if not len(costs):
            return None
        low, high = float(costs.min()), float(costs.max())
        return _TargetCost(rng.uniform(low, high), (high - low) / 8 or 1.0)

    def _order(self, points: Array, state: _State, target: _TargetCost | None) -> NDArray[np.intp]:
        """Return the order [n] of the points, best first; the costs of the best are exact."""
        features = self._cube.features(points)
        mean, deviation = state.surrogate.error.predict(features)
        tried = np.array([key in state.tried for key in _keys(features)])
        feasible = state.feasibility(features[:, self._of_student])

        def by_value(log_cost: Array) -> NDArray[np.intp]:
            # The front has measured accuracies, noise included, so the candidate's measurement is predicted,
            # noise included. Where a lucky measurement is on the front, similar candidates have little gain.
            gains = self._gains(mean, np.hypot(deviation, state.surrogate.error.noise), log_cost, state.front)
            # Without expected gain, the most uncertain candidate is first. No configuration is tried twice.
            value = gains + _UNCERTAINTY_WEIGHT * deviation
            if target is not None:
                value = value * np.exp(-(((log_cost - target.log_cost) / target.width) ** 2))
            excluded = tried | np.isinf(log_cost)
            return np.argsort(-np.where(excluded, -1.0, value * feasible), kind="stable")

        found = by_value(self._log_cost(points, state.surrogate))
        for _ in range(_COST_ROUNDS):
            if self._costs is None or self._costs.is_known(points[found[0]]):
                break
            self._costs.log_cost(points[found], self._settings.builds)
            found = by_value(self._log_cost(points, state.surrogate))
        return found

    def _log_cost(self, points: Array, surrogate: Surrogate, builds: int = 0) -> Array:
        """Return log10 of the costs [n]: exact where known (after ``builds`` more builds), else predicted."""
        predicted = surrogate.cost.predict(self._cube.features(points))[0]
        if self._costs is None:
            return predicted
        exact = self._costs.log_cost(points, builds)
        return np.where(np.isnan(exact), predicted, exact)

    def _gains(self, mean: Array, deviation: Array, log_cost: Array, front: Array) -> Array:
        """Return the expected gain in normalised hypervolume [n] from predicted log errors and costs."""
        heights = _accuracy(mean[:, None] + deviation[:, None] * NODES)
        square = self._square(np.repeat(10**log_cost, len(NODES)), heights.ravel())
        gains = area_gain(front, square[:: len(NODES), 0], square[:, 1].reshape(heights.shape))
        return np.asarray(gains @ WEIGHTS)

    def _changed(
        self, parents: Array, count: int, rng: np.random.Generator, *, share: float, step: float
    ) -> Array:
        """Return ``count`` changed copies of random parents.

        Each coordinate is kept, taken from another parent, moved by a normal ``step``, or drawn anew.
        """
        shape = (count, self._cube.dimensions)
        children = parents[rng.integers(len(parents), size=count)]
        others = parents[rng.integers(len(parents), size=count)]
        children = np.where(rng.random(shape) < 0.2, others, children)
        moved = np.clip(children + step * rng.standard_normal(shape), 0.0, 1.0)
        moved = np.where(rng.random(shape) < 0.3, rng.random(shape), moved)
        return np.asarray(np.where(rng.random(shape) < share, moved, children))

    def _square(self, costs: Array, values: Array) -> Array:
        return unit_square(
            costs,
            values,
            scale=self._scale or CostScale(1.1 * self._highest),
            classes=self._classes or 10**9,
        )


def _keys(features: Array) -> list[bytes]:
    """Return a key per configuration, equal for equal features [n, D] up to rounding."""
    return [row.tobytes() for row in np.round(features, 9)]


def _accuracy(log_error: Array) -> Array:
    """Return the accuracy in [0, 1] of a predicted log error."""
    return np.clip(1.0 + ERROR_OFFSET - np.exp(np.minimum(log_error, math.log1p(ERROR_OFFSET))), 0.0, 1.0)
