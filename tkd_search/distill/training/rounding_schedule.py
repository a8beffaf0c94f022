"""Quantisation-aware training: the last epochs of a training compute with simulated rounding."""

from collections.abc import Callable

from torch import Tensor, nn

from tkd_search.distill.method_settings import TrainSettings
from tkd_search.distill.quantization.number_format import Format, rounds_inputs, rounds_weights
from tkd_search.distill.quantization.simulation import (
    calibrate,
    observe,
    set_rounding,
    update_ranges,
)
from tkd_search.distill.training.evaluation import recalibrate
from tkd_search.distill.training.reduction import Reduction


def first_rounded_epoch(format: Format, train: TrainSettings) -> int:
    """Return the first epoch with simulated rounding, ``train.epochs`` where there is none.

    With int8 and int4 the last epoch has it at least, unless ``train.quantise`` is 0.
    """
    if not train.quantise or not rounds_weights(format):
        return train.epochs
    return train.epochs - max(1, round(train.quantise * train.epochs))


class RoundingSchedule:
    """Switches simulated rounding on where the training has come to its last epochs.

    Args:
        student: prepared by :func:`~tkd_search.distill.quantization.simulation.simulate`.
        format: number format that the student ships in.
        train: its ``quantise`` is the share of epochs with rounding.
    """

    def __init__(self, student: nn.Module, format: Format, train: TrainSettings) -> None:
        self._student, self._rounds_inputs = student, rounds_inputs(format)
        self._first = first_rounded_epoch(format, train)

    def begin_epoch(self, epoch: int, images: Callable[[], list[Tensor]] | None) -> None:
        """Set the rounding of an epoch.

        Args:
            epoch: number of completed epochs.
            images: returns training images [B, C, H, W], from which the first epoch with rounding computes
                the ranges of inputs; None where the epoch goes on after a stop and has its ranges.
        """
        student = self._student
        if epoch == self._first and self._rounds_inputs and images is not None:
            shown = images()
            # After few steps the running statistics of batch norm lag behind, and the inputs they give are
            # far smaller than those of training.
            recalibrate(student, shown)
            student.train()
            calibrate(student, shown)
        rounds = epoch >= self._first
        set_rounding(student, rounds)
        observe(student, rounds)

    def end_step(self, epoch: int, reduction: Reduction) -> None:
        """Update the ranges of inputs after a step, equally on all workers."""
        if epoch >= self._first:
            update_ranges(self._student, reduction)
