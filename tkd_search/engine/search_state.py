"""Where a search stands: its front so far, and the counts beside it."""

from collections import Counter
from dataclasses import dataclass

from tkd_search.optimize.pareto import BYTES_AND_ACCURACY, nondominated_mask, normalised_hypervolume
from tkd_search.results.records import TrialRecord


@dataclass(frozen=True)
class SearchState:
    """Where a search stands, for the terminal and the tracker.

    ``stopped`` counts the students that were not trained at all (``not_trained``) as well.
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
    """The trials that no other beats in both bytes and validation accuracy, smallest first.

    Of trials equal in both, the earliest stays.
    """
    if not trials:
        return ()
    unique: dict[tuple[int, float], TrialRecord] = {}
    for trial in sorted(trials, key=lambda t: t.trial_id):
        unique.setdefault((trial.bytes, trial.val_accuracy), trial)
    kept = list(unique.values())
    mask = nondominated_mask([[t.bytes, t.val_accuracy] for t in kept], BYTES_AND_ACCURACY)
    return tuple(sorted((t for t, on in zip(kept, mask, strict=True) if on), key=lambda t: t.bytes))


class Trials(dict[str, TrialRecord]):
    """Trials by name, with their standing kept as they change: a large search asks for it at every epoch.

    Args:
        big_model_bytes: of F, for the hypervolume.
        classes: likewise.
    """

    def __init__(self, big_model_bytes: int, classes: int) -> None:
        super().__init__()
        self._big_model_bytes, self._classes = big_model_bytes, classes
        self._states: Counter[str] = Counter()
        self._epochs = self._not_trained = 0
        self._front: tuple[TrialRecord, ...] = ()
        self._hypervolume = 0.0

    def __setitem__(self, trial_id: str, record: TrialRecord) -> None:
        """Put a trial in the place of what was known of it; one that is complete stays so."""
        if trial_id in self:
            self._count(self[trial_id], -1)
        self._count(record, 1)
        super().__setitem__(trial_id, record)
        if record.state == "complete":
            self._front = front_of([*self._front, record])
            self._hypervolume = self._volume()

    def search_state(self) -> SearchState:
        """Counts, the front of complete trials, and its hypervolume."""
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
        sizes, values = [t.bytes for t in self._front], [t.val_accuracy for t in self._front]
        return float(
            normalised_hypervolume(
                sizes, values, big_model_bytes=self._big_model_bytes, classes=self._classes
            )
        )
