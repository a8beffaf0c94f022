"""When teachers are selected again, and the selection that all workers share."""

import torch
from torch import Tensor

from tkd_search.distill.features.signal_source import Signals
from tkd_search.distill.interfaces import StudentOutput
from tkd_search.distill.losses.objective import Objective, required
from tkd_search.distill.losses.tkd import GeneratedTeachers
from tkd_search.distill.teachers.selection import Selection
from tkd_search.distill.training.reduction import Reduction


def selection_due(epoch: int, epochs: int, every: float) -> bool:
    """Return whether teachers are selected before an epoch.

    Args:
        epoch: number of completed epochs.
        epochs: number of epochs of the training.
        every: share of the training between two selections. A second selection follows the first epoch at
            once, because criteria of untrained heads are noise.
    """
    return epoch == 1 or epoch % max(1, round(every * epochs)) == 0


def reselect(
    objective: GeneratedTeachers,
    output: StudentOutput,
    signals: Signals,
    labels: Tensor,
    generator: torch.Generator,
    reduction: Reduction,
) -> None:
    """Select teachers from a sample of training rows; all workers use the selection of rank 0."""
    objective.reselect(output, signals, labels, generator)
    chosen = required(objective.selection)
    reduction.share(_tensors(chosen))
    objective.restore(chosen)


def selection_state(objective: Objective) -> list[Tensor] | None:
    """Return the tensors of the current selection, None where the objective has none."""
    if not isinstance(objective, GeneratedTeachers) or objective.selection is None:
        return None
    return _tensors(objective.selection)


def _tensors(chosen: Selection) -> list[Tensor]:
    return [chosen.candidates, chosen.weights, chosen.agreement]
