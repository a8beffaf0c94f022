"""What one training step learns from: images, labels and the big models' signals of the same rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from tkd_search.distill.features.signal_source import Signals, SignalSource
from tkd_search.distill.interfaces import UNLABELLED, channels_last
from tkd_search.distill.method_settings import MethodSettings, TrainSettings
from tkd_search.distill.training.confident_rows import confident_rows
from tkd_search.distill.training.mixing import mixed
from tkd_search.distill.training.reduction import Reduction
from tkd_search.seeds import child_seed


class StepData(NamedTuple):
    """Input of one step: ``images`` [B, C, H, W] on the device, the rest as in the objective's ``Batch``.

    ``labels`` are UNLABELLED where there are none.
    """

    images: Tensor
    labels: Tensor
    signals: Signals | None
    others: Tensor | None = None
    share: float = 1.0
    labelled: Tensor | None = None


class StepReader:
    """Prepares the data of each step on the training's device.

    Args:
        labels: [N], of all training images.
        source: reads the big models' signals; None where the method needs none.
        method: its ``min_confidence`` leaves out unlabelled rows of which F is less sure.
        train: its ``mixup`` and ``cutmix`` mix images.
        reduction: the workers of this training; each of them mixes its own part of a batch.
        seed: root seed of the training.
        unlabelled: whether batches have unlabelled rows.
    """

    def __init__(
        self,
        labels: Tensor,
        source: SignalSource | None,
        method: MethodSettings,
        train: TrainSettings,
        reduction: Reduction,
        *,
        seed: int,
        unlabelled: bool,
    ) -> None:
        self._labels, self._source, self._reduction, self._seed = labels, source, reduction, seed
        self._mixes, self._mixup, self._cutmix = train.mixes, train.mixup, train.cutmix
        self._unlabelled, self._min_confidence = unlabelled, method.min_confidence

    def read(self, index: Tensor, view: Tensor, images: Tensor, step: int) -> StepData | None:
        """Return the data of a step; None where F is sure of fewer than two rows.

        Args:
            index: rows of the training images, int64 [B].
            view: their views, int64 [B].
            images: normalised views [B, C, H, W].
            step: number of completed steps.
        """
        images = channels_last(images.to(self._labels.device, non_blocking=True))
        labels = self.labels(index)
        others, share = None, 1.0
        if self._mixes:
            seed = child_seed(self._seed, "mixing", step, self._reduction.rank)
            images, share = mixed(images, mixup=self._mixup, cutmix=self._cutmix, seed=seed)
            images, others = channels_last(images), labels.roll(1, 0)
        signals = self._source.read(view, index, images) if self._source is not None else None
        data = StepData(images, labels, signals, others, share)
        return self._with_unlabelled(data) if self._unlabelled else data

    def labels(self, index: Tensor) -> Tensor:
        """Return the labels [B] of rows [B]."""
        return self._labels[index.to(self._labels.device)]

    def _with_unlabelled(self, data: StepData) -> StepData | None:
        if data.signals is not None and self._min_confidence > 0:
            rows = confident_rows(
                data.signals.logits, data.labels, data.others, self._min_confidence, self._reduction
            )
            if len(rows) < 2:
                return None
            data = _rows(data, rows)
        labelled = (data.labels != UNLABELLED).sum().to(torch.float32)
        return data._replace(labelled=self._reduction.mean(labelled))


def _rows(data: StepData, rows: Tensor) -> StepData:
    return data._replace(
        images=channels_last(data.images[rows]),
        labels=data.labels[rows],
        signals=None if data.signals is None else data.signals.rows(rows),
        others=None if data.others is None else data.others[rows],
    )
