"""Simulates a whole search in virtual time, with the study, pruner and sampler code of a real one.

``slots`` trials run at once. An epoch takes about one unit of time; each trial has its own pace, so that
trials do not run in lockstep. Only the training is replaced, by a black box.
"""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulator.surrogate import BlackBox, Outcome
from tkd_search.optimize.pareto import CostScale, nondominated_mask, normalised_hypervolume
from tkd_search.optimize.pruners.base import Decision, RungRecord, Stop
from tkd_search.optimize.study import Suggestion
from tkd_search.optimize.study_trial import StudyTrial

T = TypeVar("T")


class AskTell(Protocol):
    """The part of a ``SearchStudy`` that a simulated driver uses."""

    def ask(self) -> Suggestion:
        """Create a trial."""

    def report(self, trial_id: str, record: RungRecord) -> Decision:
        """Record an epoch of a trial and decide."""

    def complete(self, trial_id: str, values: tuple[float, float] | None = None) -> None:
        """End a trial with the full budget."""

    def prune(self, trial_id: str, values: tuple[float, float] | None, reason: str) -> None:
        """End a trial that was stopped."""

    def trials(self, *states: Any) -> tuple[StudyTrial, ...]:
        """Return the trials in the given states, or all."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The results of a simulated search.

    Attributes:
        epochs: epochs spent when each whole trial ended [k], ascending.
        hypervolume: normalised hypervolume of the whole trials after each of them [k].
        epochs_spent: epochs of all trials.
        trials: number of trials started.
        stopped: number of trials stopped early.
        regret_stops: members of the full-information front that were stopped, ÷ its size.
        lost_hypervolume: full-information hypervolume of all trials less that of the whole ones.
        ask_seconds: wall seconds of each suggestion.
        decide_seconds: wall seconds of each report (pruner and bookkeeping).
    """

    epochs: NDArray[np.int64]
    hypervolume: NDArray[np.float64]
    epochs_spent: int
    trials: int
    stopped: int
    regret_stops: float
    lost_hypervolume: float
    ask_seconds: Sequence[float]
    decide_seconds: Sequence[float]

    def at(self, epochs: float) -> float:
        """Return the hypervolume after this many epochs."""
        reached = np.searchsorted(self.epochs, epochs, side="right")
        return float(self.hypervolume[reached - 1]) if reached else 0.0

    def epochs_to(self, hypervolume: float) -> float:
        """Return the epochs after which the hypervolume was first reached; inf if never."""
        reached = np.flatnonzero(self.hypervolume >= hypervolume)
        return float(self.epochs[reached[0]]) if reached.size else float("inf")


@dataclass
class Running:
    """A trial in a slot: its outcome to come, the time an epoch takes, and epochs done."""

    suggestion: Suggestion
    outcome: Outcome
    pace: float
    epoch: int = 0


class Simulation:
    """One search over a black box; see :func:`simulate`."""

    def __init__(
        self,
        study: AskTell,
        black_box: BlackBox,
        *,
        full_budget: int,
        slots: int,
        max_epochs: int | None,
        max_trials: int | None,
        seed: int,
    ) -> None:
        self.study, self.black_box, self.full_budget = study, black_box, full_budget
        self._slots, self._max_epochs, self._max_trials = slots, max_epochs, max_trials
        self._rng = np.random.default_rng([seed, 7])
        self._queue: list[tuple[float, int]] = []
        self._running: dict[int, Running] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.epochs_spent = 0
        self.whole: list[tuple[int, str]] = []
        self.ask_seconds: list[float] = []
        self.decide_seconds: list[float] = []

    def run(self) -> None:
        """Start as many trials as there are slots, then process events until the budget is spent."""
        while len(self._running) < self._slots and self._begin(0.0):
            pass
        while self._queue:
            now, number = heapq.heappop(self._queue)
            if self._epoch(self._running[number]):
                heapq.heappush(self._queue, (now + self._running[number].pace, number))
            else:
                del self._running[number]
                self._begin(now)

    def _begin(self, now: float) -> bool:
        if self._max_epochs is not None and self.epochs_spent >= self._max_epochs:
            return False
        if self._max_trials is not None and len(self.outcomes) >= self._max_trials:
            return False
        suggestion = _timed(self.study.ask, self.ask_seconds)
        outcome = self.black_box.evaluate(suggestion.config)
        self.outcomes[suggestion.trial_id] = outcome
        pace = float(self._rng.uniform(0.8, 1.2))
        self._running[suggestion.number] = Running(suggestion, outcome, pace)
        heapq.heappush(self._queue, (now + pace, suggestion.number))
        return True

    def _epoch(self, running: Running) -> bool:
        """Run one epoch of one trial and return whether it goes on."""
        running.epoch += 1
        self.epochs_spent += 1
        trial_id = running.suggestion.trial_id
        record = RungRecord(
            trial_id=trial_id,
            epoch=running.epoch,
            cost=running.outcome.bytes,
            accuracy=float(running.outcome.accuracy[running.epoch - 1]),
        )
        decision = _timed(lambda: self.study.report(trial_id, record), self.decide_seconds)
        if running.epoch >= self.full_budget:
            self.study.complete(trial_id)
            self.whole.append((self.epochs_spent, trial_id))
            return False
        if isinstance(decision, Stop):
            self.study.prune(trial_id, None, decision.reason)
            return False
        return True


def simulate(
    study: AskTell,
    black_box: BlackBox,
    *,
    full_budget: int,
    classes: int,
    scale: CostScale,
    slots: int = 8,
    max_epochs: int | None = None,
    max_trials: int | None = None,
    seed: int = 0,
) -> Replay:
    """Run a search until the budget is spent and all trials have ended.

    Args:
        study: suggests and decides.
        black_box: outcomes in place of training.
        full_budget: epochs of a whole trial.
        classes: number of classes, for the hypervolume.
        scale: of the costs, for the hypervolume.
        slots: trials at once.
        max_epochs: no trial starts once this many epochs are spent.
        max_trials: no more trials than this.
        seed: seed of the trials' pace.
    """
    simulation = Simulation(
        study,
        black_box,
        full_budget=full_budget,
        slots=slots,
        max_epochs=max_epochs,
        max_trials=max_trials,
        seed=seed,
    )
    simulation.run()
    return _summarise(simulation, classes=classes, scale=scale)


def _summarise(simulation: Simulation, *, classes: int, scale: CostScale) -> Replay:
    outcomes = simulation.outcomes
    stopped = {trial.trial_id for trial in simulation.study.trials("stopped")}

    def volume(ids: Sequence[str]) -> float:
        return normalised_hypervolume(
            [outcomes[i].bytes for i in ids],
            [outcomes[i].accuracy[-1] for i in ids],
            scale=scale,
            classes=classes,
        )

    whole = [trial_id for _, trial_id in simulation.whole]
    return Replay(
        epochs=np.array([epochs for epochs, _ in simulation.whole], dtype=np.int64),
        hypervolume=np.array([volume(whole[: i + 1]) for i in range(len(whole))]),
        epochs_spent=simulation.epochs_spent,
        trials=len(outcomes),
        stopped=len(stopped),
        regret_stops=_regret(outcomes, stopped),
        lost_hypervolume=volume(list(outcomes)) - volume(whole),
        ask_seconds=simulation.ask_seconds,
        decide_seconds=simulation.decide_seconds,
    )


def _regret(outcomes: dict[str, Outcome], stopped: set[str]) -> float:
    """Return the share of stopped trials on the front of all trials, each with its final accuracy."""
    ids = list(outcomes)
    points = [[outcomes[i].bytes, outcomes[i].accuracy[-1]] for i in ids]
    front = nondominated_mask(points)
    members = [i for i, on_front in zip(ids, front, strict=True) if on_front]
    return sum(i in stopped for i in members) / max(len(members), 1)


def _timed(call: Callable[[], T], seconds: list[float]) -> T:
    begin = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - begin)
    return result
