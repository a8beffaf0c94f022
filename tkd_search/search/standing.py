"""Where a search stands: its front so far, and the counts beside it."""

from dataclasses import dataclass

from tkd_search.records import TrialRecord
from tkd_search.search.pareto import BYTES_AND_ACCURACY, nondominated_mask


@dataclass(frozen=True)
class Standing:
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
