"""The epochs of one training in a worker group: validation, checkpoints and results."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from tkd_search.data import DataBundle
from tkd_search.distill.method_settings import MetricName, TrainSettings
from tkd_search.distill.training.distiller import Distiller
from tkd_search.distill.training.epoch_stats import EpochStats
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.checkpoint import TrialCheckpoint
from tkd_search.engine.jobs.job_context import JobContext

Ship = Callable[[nn.Module], float]
"""Trained student in eval mode → validation metric of its files."""


def train(
    distiller: Distiller,
    data: DataBundle,
    context: JobContext,
    checkpoint: TrialCheckpoint,
    *,
    after_epoch: int = 0,
    levels: Sequence[int] = (),
    ship: Ship | None = None,
    metric: MetricName = "accuracy",
) -> bool:
    """Train to the full budget, from the checkpoint where there is one.

    Pushes ``{"kind": "epoch", "epoch", "val_accuracy", "metrics", "last"}`` after a validated epoch, and
    ``{"kind": "alive", "epoch"}`` after any other; first ``{"kind": "note", "text"}`` where a checkpoint
    is damaged.

    Args:
        distiller: the training.
        data: data set with the validation images.
        context: the worker group.
        checkpoint: where the training is kept.
        after_epoch: last epoch that the driver knows; validated epochs in the checkpoint that come after it
            are pushed again, so that a restart leaves no gap in the records.
        levels: epochs of the rungs, which are always validated.
        ship: stores the files of the trained network and returns their validation metric, which then is
            that of the last epoch; the network's own is kept as the metric ``simulated_accuracy``.
        metric: the figure in ``val_accuracy``.

    Returns:
        Whether the training is complete; False where the job was superseded.
    """
    history = checkpoint.load(distiller)
    if checkpoint.damaged:
        files = " and ".join(checkpoint.damaged)
        context.push({"kind": "note", "text": f"damaged {files}: goes on after epoch {distiller.epoch}"})

    def save_if_due() -> None:
        if context.rank == 0 and checkpoint.due():
            checkpoint.save(distiller, history)

    for past in history:
        if past["epoch"] > after_epoch:
            context.push(past)
    while distiller.epoch < distiller.train.epochs:
        stats = distiller.run_epoch(context.should_stop, save_if_due)
        if stats is None:
            return False
        result: dict[str, Any] = {"kind": "alive", "epoch": stats.epoch}
        validated = _is_validated(stats.epoch, distiller.train, levels)
        if validated:
            result = _validate(distiller, stats, data, context, ship, metric)
            history.append(result)
        if context.rank == 0 and (validated or checkpoint.due()):
            checkpoint.save(distiller, history)
        context.push(result)
    return True


def _is_validated(epoch: int, settings: TrainSettings, levels: Sequence[int]) -> bool:
    return epoch % settings.validate_every == 0 or epoch in levels or epoch >= settings.epochs


def _validate(
    distiller: Distiller,
    stats: EpochStats,
    data: DataBundle,
    context: JobContext,
    ship: Ship | None,
    metric: MetricName,
) -> dict[str, Any]:
    """Return the result of an epoch with its validation metric, which the workers compute together."""
    part = (context.rank, context.workers)
    batches = caches.batches_of(data, data.validation, context.device, part=part)
    student = distiller.eval_student()
    accuracy = distiller.evaluate(student, context.beating(batches), metric)
    last, simulated = stats.epoch >= distiller.train.epochs, {}
    if last and ship is not None and context.rank == 0:
        simulated, accuracy = {"simulated_accuracy": accuracy}, ship(student)
    return {
        "kind": "epoch",
        "epoch": stats.epoch,
        "val_accuracy": accuracy,
        "metrics": {
            **stats.losses,
            **simulated,
            "seconds": stats.seconds,
            **{f"weight.{name}": weight for name, weight in stats.teachers},
            **{f"agreement.{name}": cka for name, cka in stats.agreements},
        },
        "last": last,
    }
