"""The copy of a student in training that is evaluated and ships."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tkd_search.distill.quantization.number_format import Format, rounds_weights
from tkd_search.distill.quantization.simulation import calibrate, observe, set_rounding
from tkd_search.distill.training.evaluation import recalibrate, release
from tkd_search.distill.training.sync_batchnorm import desynchronised


@torch.no_grad()
def evaluation_copy(
    student: nn.Module, format: Format, averaged: Sequence[Tensor], images: Callable[[], list[Tensor]]
) -> nn.Module:
    """Return a copy of a student in eval mode, without gradients, with ordinary batch normalisations.

    Args:
        student: in training; not changed.
        format: number format it ships in; with int8 and int4 the copy computes with simulated rounding.
        averaged: averaged values of the parameters that learn, in their order, for the copy; empty: the
            student's own values stay.
        images: returns training images [B, C, H, W], from which batch statistics are computed for averaged
            weights, and ranges of inputs for int8.
    """
    made = desynchronised(copy.deepcopy(student)).eval()
    learning = [p for p in made.parameters() if p.requires_grad]
    release(made)
    for parameter, average in zip(learning, averaged, strict=False):
        parameter.copy_(average)
    if not averaged and not rounds_weights(format):
        return made
    shown = images()
    observe(made, False)
    set_rounding(made, True, inputs=False)
    if averaged:
        recalibrate(made, shown)
    calibrate(made, shown)
    set_rounding(made, True)
    return made
