"""The state of a search: its front so far, its counts, and its record from the event log."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tkd_search.optimize.pareto import CostScale, nondominated_mask, normalised_hypervolume
from tkd_search.results.records import BigModelRecord, FrontMember, SearchRecord, TrialRecord
from tkd_search.tracking.search_log import SearchLog


@dataclass(frozen=True)
class SearchState:
    """Counts of trials by state, epochs spent, front and hypervolume.

    ``stopped`` includes the students that were not trained at all (``not_trained``).
    """

    running: int
    complete: int
    stopped: int
    not_trained: int
    failed: int
    epochs: int
    front: tuple[TrialRecord, ...]
    hypervolume: float


def front_of(trials: list[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Return the trials that no other beats in both cost and validation accuracy, cheapest first.

    Of trials equal in both, the earliest stays.
    """
    if not trials:
        return ()
    unique: dict[tuple[float, float], TrialRecord] = {}
    for trial in sorted(trials, key=lambda t: t.trial_id):
        unique.setdefault((trial.cost, trial.val_accuracy), trial)
    kept = list(unique.values())
    mask = nondominated_mask([[t.cost, t.val_accuracy] for t in kept])
    return tuple(sorted((t for t, on in zip(kept, mask, strict=True) if on), key=lambda t: t.cost))


class Trials(dict[str, TrialRecord]):
    """Trials by identifier, with the search's state updated at each change.

    A large search asks for its state at every epoch, so counting anew would cost too much.

    Args:
        scale: of the costs, for the hypervolume.
        classes: number of classes, for the hypervolume.
    """

    def __init__(self, scale: CostScale, classes: int) -> None:
        super().__init__()
        self._scale, self._classes = scale, classes
        self._states: Counter[str] = Counter()
        self._epochs = self._not_trained = 0
        self._front: tuple[TrialRecord, ...] = ()
        self._hypervolume = 0.0

    def __setitem__(self, trial_id: str, record: TrialRecord) -> None:
        """Replace a trial's record; a complete trial stays complete."""
        if trial_id in self:
            self._count(self[trial_id], -1)
        self._count(record, 1)
        super().__setitem__(trial_id, record)
        if record.state == "complete":
            self._front = front_of([*self._front, record])
            self._hypervolume = self._volume()

    def search_state(self) -> SearchState:
        """Return the counts, the front of complete trials, and its hypervolume."""
        return SearchState(
            running=self._states["running"],
            complete=self._states["complete"],
            stopped=self._states["stopped"],
            not_trained=self._not_trained,
            failed=self._states["failed"],
            epochs=self._epochs,
            front=self._front,
            hypervolume=self._hypervolume,
        )

    def _count(self, record: TrialRecord, by: int) -> None:
        self._states[record.state] += by
        self._epochs += by * record.epochs_trained
        self._not_trained += by * record.not_trained

    def _volume(self) -> float:
        costs, values = [t.cost for t in self._front], [t.val_accuracy for t in self._front]
        return normalised_hypervolume(costs, values, scale=self._scale, classes=self._classes)


def front_member(
    trial: TrialRecord,
    big_model: BigModelRecord,
    *,
    test_accuracy: float = math.nan,
    latency_ms: dict[int, float] | None = None,
) -> FrontMember:
    """Return a trial as a member of the front; its test accuracy is NaN until it is measured."""
    return FrontMember(
        trial_id=trial.trial_id,
        student=trial.student,
        bytes=trial.bytes,
        latency=trial.latency,
        parameters=trial.parameters,
        ratio=trial.bytes / big_model.bytes,
        val_accuracy=trial.val_accuracy,
        test_accuracy=test_accuracy,
        retention=big_model.retention(test_accuracy),
        config=trial.config,
        path=f"students/{trial.trial_id}",
        latency_ms=latency_ms or {},
    )


def latest_record(written: SearchRecord | None, log: SearchLog) -> SearchRecord | None:
    """Return the record that knows more ended trials: the written one, or that of the event log.

    An interrupted search has written a record; after it has been resumed the log knows more.

    Args:
        written: the record in the run's folder, or None.
        log: the run's event log.
    """
    if written is not None and _ended(written.trials) >= _ended(log.trials.values()):
        return written
    return record_so_far(log) or written


def _ended(trials: Iterable[TrialRecord]) -> int:
    return sum(trial.state in ("complete", "stopped", "failed") for trial in trials)


def record_so_far(log: SearchLog) -> SearchRecord | None:
    """Return the record of a search that runs or was killed, from its event log.

    None where nothing can be reported yet: the search has not trained its big model.
    """
    search, big_model = log.search, log.big_model
    if search is None or big_model is None:
        return None
    front = front_of([trial for trial in log.trials.values() if trial.state == "complete"])
    return SearchRecord(
        name=search.name,
        dataset=search.dataset,
        seed=search.seed,
        classes=search.classes,
        status="running",
        big_model=big_model,
        trials=tuple(log.trials[key] for key in sorted(log.trials)),
        front=tuple(front_member(trial, big_model) for trial in front),
        full_budget=search.full_budget,
        hypervolume=log.history[-1][1] if log.history else 0.0,
        reference_point=(float(big_model.cost), 1.0 / search.classes),
        wall_seconds=log.seconds,
        history=tuple(log.history),
        method=method if isinstance(method := search.config.get("method.name"), str) else "",
        cost=log.cost,
        metric=str(search.config.get("search.metric", "accuracy")),
    )
