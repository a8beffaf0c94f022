"""The EHVI sampler: a model of accuracy that every trial teaches, asked for the largest expected gain.

Only accuracy is uncertain; bytes are nearly a function of a few leaves. So one Gaussian process predicts
the log error at the full budget, from whole trials and from stopped ones whose error is carried forward
(with the variance that carrying adds, see ``fidelity.extrapolate``); another predicts log bytes. The next
configuration is the candidate with the largest expected gain in normalised hypervolume, running trials
counted as if they ended as predicted. A suggestion is a function of the trials and the seed: what is kept
between suggestions saves time and changes nothing, so a resumed search goes on as if it had never stopped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tkd_search.optimize.learning_curves import ERROR_OFFSET, Extrapolation
from tkd_search.optimize.pareto import BYTES_AND_ACCURACY, nondominated_mask, unit_square
from tkd_search.optimize.samplers.feasibility import Feasibility
from tkd_search.optimize.samplers.hypervolume_gain import NODES, WEIGHTS, area_gain
from tkd_search.optimize.samplers.surrogate import FEWEST, Surrogate, SurrogateFitter, taught_by
from tkd_search.optimize.space import Space
from tkd_search.optimize.space_encoding import Array, Cube
from tkd_search.optimize.student_bytes import SizeOf, Sizes, student_columns
from tkd_search.optimize.study_trial import StudyTrial

_CURIOSITY = 1e-7
"""Weight of the uncertainty: it decides only among candidates that promise no gain."""
_DOUBTFUL = 0.5
"""Feasibility below which a student is neither aimed at nor taken from another sampler."""
_ROUNDS = 16
"""How often candidates are built until the best one's size is known."""


@dataclass(frozen=True, kw_only=True)
class EHVISettings:
    """Sizes of the sampler's work, each bounding what a suggestion costs.

    Attributes:
        memory: most trials in the model; the best half, the rest drawn at random.
        refit_every: finished trials between fits of the hyperparameters.
        random: candidates drawn uniformly.
        local: candidates made from good trials by small changes.
        polish: candidates made from the best candidates.
        aimed: share of the model's own suggestions that aim at a size drawn uniformly in log(bytes).
            Hypervolume is gained fastest at the smallest size, but users want students of every size; and
            where the model is too hopeful at some size, others have their turn.
        tpe: share of suggestions left to Optuna's TPE once 30 trials teach: it errs in other ways than this
            model, whose mistakes would otherwise never be found out.
        builds: students whose exact size is asked for at once, until the best candidate's is known: at most
            sixteen times, twice per suggestion.

    Raises:
        ValueError: a size below 1, or a share outside [0, 1].
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
class _Aim:
    """A size to aim at in log10(bytes), and how far from it counts."""

    log_bytes: float
    width: float


@dataclass(frozen=True)
class _Knowledge:
    """What a suggestion rests on: the front [m, 2] in the unit square, beliefs, trials so far."""

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
        big_model_bytes: of F; the largest student seen unless given.
        classes: for chance accuracy; chance 0 unless given.
        size_of: exact bytes of a configuration; a model of bytes unless given.
        settings: sizes of its work.
    """

    def __init__(
        self,
        space: Space,
        *,
        levels: Sequence[int],
        full_budget: int,
        big_model_bytes: float | None = None,
        classes: int | None = None,
        size_of: SizeOf | None = None,
        settings: EHVISettings | None = None,
    ) -> None:
        self._cube = Cube(space)
        self._of_student = np.isin(self._cube.leaf_of_feature, student_columns(self._cube))
        self._sizes = Sizes(self._cube, size_of) if size_of else None
        self._big_model_bytes, self._classes = big_model_bytes, classes
        self._settings = settings or EHVISettings()
        self._fitter = SurrogateFitter(
            self._cube,
            levels,
            full_budget,
            memory=self._settings.memory,
            refit_every=self._settings.refit_every,
        )

    def suggest(self, trials: Sequence[StudyTrial], seed: int) -> dict[str, object] | None:
        """The next configuration, or None while too little is known (fewer than four lessons)."""
        rng = np.random.default_rng(seed)
        fitter = self._fitter
        lessons = fitter.lessons(trials)
        taught = taught_by(trials, lessons)
        if len(taught) < FEWEST or not self._cube.dimensions:
            return None
        if self._sizes:
            self._sizes.forget()
        self._largest = max(float(t.bytes or 0) for t in taught)
        running = [t for t in trials if t.state == "running" and t.number not in lessons.log_error]
        surrogate = fitter.surrogate(trials, taught, lessons, running, rng)
        mine = [t for t in trials if t.number >= 0]  # earlier searches' students are not this one's
        front = self._front(mine, lessons, running, surrogate)
        best = sorted(zip(fitter.ranks(taught, lessons), taught, strict=True), key=lambda pair: pair[0])
        elite = np.array([fitter.point(t) for _, t in best[: max(20, len(taught) // 8)]])
        tried = frozenset(_keys(fitter.features(mine)))
        known = _Knowledge(front, surrogate, tried, self._feasibility(mine))
        return self._cube.decode(self._best_candidate(elite, known, rng))

    def would_take(self, config: Mapping[str, object], trials: Sequence[StudyTrial]) -> bool:
        """Whether another's suggestion is worth a trial: new, its student can be built and breaks no limit.

        Limits are known by what they refused: near students must have trained at least as often as not.
        """
        mine = [t for t in trials if t.number >= 0]
        features = self._cube.features(self._cube.point(config)[None])
        if _keys(features)[0] in _keys(self._fitter.features(mine)):
            return False
        if self._feasibility(mine)(features[:, self._of_student])[0] < _DOUBTFUL:
            return False
        return self._sizes is None or self._sizes.can_build(config)

    def _feasibility(self, trials: list[StudyTrial]) -> Feasibility:
        refused = [t for t in trials if t.state == "stopped" and not t.curve]
        students = self._fitter.features([t for t in trials if t.curve])[:, self._of_student]
        return Feasibility(students, self._fitter.features(refused)[:, self._of_student])

    def _front(
        self,
        trials: Sequence[StudyTrial],
        lessons: Extrapolation,
        running: list[StudyTrial],
        surrogate: Surrogate,
    ) -> Array:
        """The front to improve on, in the unit square: whole trials, and running ones as they promise."""
        known = [t for t in trials if t.state == "complete" and t.bytes]
        promising = [t for t in trials if t.state == "running" and t.number in lessons.log_error]
        sizes = [float(t.bytes or 1) for t in [*known, *promising]]
        values = [t.accuracy for t in known] + [lessons.accuracy(t.number) for t in promising]
        if running:
            points = np.array([self._fitter.point(t) for t in running])
            sizes += (10 ** self._log_bytes(points, surrogate, builds=len(running))).tolist()
            values += _accuracy(surrogate.error.predict(self._fitter.features(running))[0]).tolist()
        if not sizes:
            return np.empty((0, 2))
        self._largest = max(self._largest, *sizes)
        square = self._square(np.array(sizes), np.array(values))
        front = np.unique(square[nondominated_mask(square, BYTES_AND_ACCURACY)], axis=0)
        return front

    def _best_candidate(self, elite: Array, known: _Knowledge, rng: np.random.Generator) -> Array:
        settings = self._settings
        candidates = self._snapped(
            [
                rng.random((settings.random, self._cube.dimensions)),
                self._changed(elite, settings.local, rng, share=0.3, step=0.2),
            ]
        )
        aim = self._aim(candidates, known, rng)
        best = candidates[self._by_worth(candidates, known, aim)[:12]]
        polished = self._snapped([best, self._changed(best, settings.polish, rng, share=0.15, step=0.07)])
        return np.asarray(polished[self._by_worth(polished, known, aim)[0]])

    def _snapped(self, parts: list[Array]) -> Array:
        points = np.vstack(parts)
        return self._sizes.snap(points) if self._sizes else points

    def _aim(self, candidates: Array, known: _Knowledge, rng: np.random.Generator) -> "_Aim | None":
        """A size to aim at, now and then, that the space can make and no limit seems to forbid."""
        if rng.random() >= self._settings.aimed:
            return None
        sizes = self._log_bytes(candidates, known.surrogate)
        feasible = known.feasibility(self._cube.features(candidates)[:, self._of_student])
        sizes = sizes[(feasible >= min(_DOUBTFUL, feasible.max())) & np.isfinite(sizes)]
        if not len(sizes):
            return None
        low, high = float(sizes.min()), float(sizes.max())
        return _Aim(rng.uniform(low, high), (high - low) / 8 or 1.0)

    def _by_worth(self, points: Array, known: _Knowledge, aim: "_Aim | None") -> NDArray[np.intp]:
        """Order [n] of the points, best first; the sizes of the most promising are exact."""
        features = self._cube.features(points)
        mean, deviation = known.surrogate.error.predict(features)
        tried = np.array([key in known.tried for key in _keys(features)])
        feasible = known.feasibility(features[:, self._of_student])

        def order(log_bytes: Array) -> NDArray[np.intp]:
            # The front is made of measured accuracies, so what a trial may measure counts, luck included:
            # where the front owes its height to luck, more of the same is worth little.
            gains = self._gains(
                mean, np.hypot(deviation, known.surrogate.error.noise), log_bytes, known.front
            )
            # Where nothing is expected the least known goes first; nothing goes twice.
            worth = gains + _CURIOSITY * deviation
            if aim is not None:
                worth = worth * np.exp(-(((log_bytes - aim.log_bytes) / aim.width) ** 2))
            hopeless = tried | np.isinf(log_bytes)
            return np.argsort(-np.where(hopeless, -1.0, worth * feasible), kind="stable")

        found = order(self._log_bytes(points, known.surrogate))
        for _ in range(_ROUNDS):
            if self._sizes is None or self._sizes.is_known(points[found[0]]):
                break
            self._sizes.log_bytes(points[found], self._settings.builds)
            found = order(self._log_bytes(points, known.surrogate))
        return found

    def _log_bytes(self, points: Array, surrogate: Surrogate, builds: int = 0) -> Array:
        """log10 of the bytes [n]: exact as far as known (``builds`` more are made), else modelled."""
        modelled = surrogate.size.predict(self._cube.features(points))[0]
        if self._sizes is None:
            return modelled
        exact = self._sizes.log_bytes(points, builds)
        return np.where(np.isnan(exact), modelled, exact)

    def _gains(self, mean: Array, deviation: Array, log_bytes: Array, front: Array) -> Array:
        """Expected gain in normalised hypervolume [n], from the beliefs about log error and log10 bytes."""
        heights = _accuracy(mean[:, None] + deviation[:, None] * NODES)
        square = self._square(np.repeat(10**log_bytes, len(NODES)), heights.ravel())
        gains = area_gain(front, square[:: len(NODES), 0], square[:, 1].reshape(heights.shape))
        return np.asarray(gains @ WEIGHTS)

    def _changed(
        self, parents: Array, count: int, rng: np.random.Generator, *, share: float, step: float
    ) -> Array:
        """Children of random parents: each coordinate is kept, crossed with another parent's, or moved."""
        shape = (count, self._cube.dimensions)
        children = parents[rng.integers(len(parents), size=count)]
        others = parents[rng.integers(len(parents), size=count)]
        children = np.where(rng.random(shape) < 0.2, others, children)
        moved = np.clip(children + step * rng.standard_normal(shape), 0.0, 1.0)
        moved = np.where(rng.random(shape) < 0.3, rng.random(shape), moved)
        return np.asarray(np.where(rng.random(shape) < share, moved, children))

    def _square(self, sizes: Array, values: Array) -> Array:
        return unit_square(
            sizes,
            values,
            big_model_bytes=self._big_model_bytes or 1.1 * self._largest,
            classes=self._classes or 10**9,
        )


def _keys(features: Array) -> list[bytes]:
    """What makes configurations the same: their features [n, D], but for rounding."""
    return [row.tobytes() for row in np.round(features, 9)]


def _accuracy(log_error: Array) -> Array:
    """Accuracy in [0, 1] from the log error that the model predicts."""
    return np.clip(1.0 + ERROR_OFFSET - np.exp(np.minimum(log_error, math.log1p(ERROR_OFFSET))), 0.0, 1.0)
