"""The training loop: one student, one method, one budget, resumable to the bit after any epoch."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from tkd_search.distill.bank import Bank
from tkd_search.distill.batchnorm import desynchronised, synchronised
from tkd_search.distill.errors import Diverged
from tkd_search.distill.evaluation import frozen_copy, recalibrate
from tkd_search.distill.methods import build_objective, signal_source
from tkd_search.distill.objective import Batch, Context
from tkd_search.distill.reduce import Alone, Reduction
from tkd_search.distill.schedule import (
    GENERATOR_WEIGHT_DECAY,
    adamw,
    averaged,
    rate,
    set_rate,
    student_optimizer,
)
from tkd_search.distill.seeds import child_generator, child_seed
from tkd_search.distill.selection import Selection
from tkd_search.distill.settings import MethodSettings, TrainSettings
from tkd_search.distill.tkd import GeneratedTeachers
from tkd_search.distill.types import (
    StopSignal,
    StudentLike,
    StudentOutput,
    ViewSource,
    channels_last,
    never,
)

NOT_THE_STUDENTS = frozenset({"generators", "distil_back"})
"""Terms that train teachers, not the student."""
_SAMPLE_ROWS = 512
_CALIBRATION_ROWS = 512
_CHECK_EVERY = 32


@dataclass(frozen=True)
class EpochStats:
    """What one epoch was like.

    ``epoch`` counts from 1; ``losses`` are the means of the objective's weighted terms, the student's
    ``total`` among them, and of what its teachers learn from (``generators``); ``teachers`` are (candidate
    name, weight), most wanted first; ``seconds`` is wall time.
    """

    epoch: int
    losses: dict[str, float]
    teachers: tuple[tuple[str, float], ...]
    seconds: float


class Distiller:
    """Trains one student by one method.

    Args:
        student: the network to train, in place; moved to ``device``.
        views: the training images.
        method: what it is trained for; ``ce`` needs neither bank nor big models, and so trains F itself.
        train: optimiser and budget.
        seed: root of all randomness of this training but the student's initial weights.
        bank: of the same views; needed by every method but ``ce`` unless ``big_models`` are given.
        big_models: run live where there is no bank or views are drawn freely (``views.views`` 0), and
            where ``method.distil_back`` is ``big_model``: then F is trained too, in a copy, from labels
            and, weighted ρ, from the student, and the bank is bypassed, because it would be out of date.
        device: torch device.
        group: the other workers of this training; None for one worker. Batches are split evenly.
        class_count: c, for checks.

    Raises:
        ValueError: the method needs a bank, cells or big models that are not there.
    """

    def __init__(
        self,
        student: StudentLike,
        views: ViewSource,
        method: MethodSettings,
        train: TrainSettings,
        *,
        seed: int,
        bank: Bank | None = None,
        big_models: Sequence[nn.Module] = (),
        device: str | torch.device = "cpu",
        group: Reduction | None = None,
        class_count: int,
    ) -> None:
        self.method, self.train, self.epoch, self.step = method, train, 0, 0
        self.device, self._group, self._seed, self._views = (
            torch.device(device),
            group or Alone(),
            seed,
            views,
        )
        _check(views, bank, class_count)
        if bank is not None and self.device.type == "cuda":
            bank = bank.to(self.device)
        network = cast(nn.Module, student).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student: nn.Module = synchronised(network) if self._group.size > 1 else network
        generator = child_generator(seed, "initial")
        self._source, form = signal_source(method, views, bank, big_models, self.device)
        context = Context(student, form, self._group, generator, train.label_smoothing)
        self.objective = build_objective(method, context).to(self.device)
        self._group.share([*self.student.state_dict().values(), *self.objective.state_dict().values()])
        self._labels = views.labels.to(self.device)
        self._forward = torch.compile(self.student) if train.compile else self.student
        self._build_optimizers()

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch: the fewest of equal size that are no larger than ``batch_size``."""
        return max(1, -(-len(self._views) // self.train.batch_size))

    @property
    def _total_steps(self) -> int:
        return self.train.epochs * self.steps_per_epoch

    def _build_optimizers(self) -> None:
        learning = [*self.student.parameters(), *self.objective.student_parameters()]
        self._optimizer = student_optimizer(learning, self.train, self._total_steps)
        teachers = getattr(self.objective, "generators", None)
        of_teachers = [p for p in teachers.parameters() if p.requires_grad] if teachers is not None else []
        backs = list(self._source.parameters()) if self._source is not None else []
        self._others = [
            adamw(p, self.method.generator_lr, GENERATOR_WEIGHT_DECAY) for p in (of_teachers, backs) if p
        ]
        self._learning = [*learning, *of_teachers, *backs]
        half = self.train.precision == "fp16" and self.device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self.device.type) if half else None

    def run_epoch(self, should_stop: StopSignal = never) -> EpochStats | None:
        """Train one epoch.

        Args:
            should_stop: polled before each batch; must answer alike on all workers.

        Returns:
            The epoch's figures, or None where it was told to stop: the student is then in mid-epoch, and
            only ``load_state_dict`` makes this trainer whole again.

        Raises:
            Diverged: the loss is not finite (noticed within 32 batches).
        """
        started, means = time.perf_counter(), _Means()
        self.student.train()
        with self._private_randomness():
            if self._selection_due():
                self._reselect()
            for index, view in self._batches():
                if should_stop():
                    return None
                means.add(self._train_batch(index, view))
                self.step += 1
                if self.step % _CHECK_EVERY == 0:
                    means.check(self.epoch)
        losses = means.check(self.epoch)
        self._optimizer.zero_grad()
        self.epoch += 1
        teachers = self.objective.teachers() if isinstance(self.objective, GeneratedTeachers) else ()
        return EpochStats(self.epoch, losses, teachers, time.perf_counter() - started)

    @contextlib.contextmanager
    def _private_randomness(self) -> Iterator[None]:
        """Dropout and the like draw from this epoch's own seed; the global random state is left alone."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(child_seed(self._seed, "epoch", self.epoch, self._group.rank))
            yield

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's (index, view) of every batch of the epoch, a function of seed and epoch alone."""
        generator = child_generator(self._seed, "order", self.epoch)
        order = torch.randperm(len(self._views), generator=generator)
        view = self._draw_views(len(order), generator)
        rank, size = self._group.rank, self._group.size
        for rows in torch.arange(len(order)).tensor_split(self.steps_per_epoch):
            if size > 1:  # equal shares, so that a mean of means is the mean
                rows = rows[: len(rows) // size * size].chunk(size)[rank]
            yield order[rows], view[rows]

    def _draw_views(self, number: int, generator: torch.Generator) -> Tensor:
        most = self._views.views or 2**31
        return torch.randint(0, most, (number,), generator=generator)

    def _train_batch(self, index: Tensor, view: Tensor) -> dict[str, Tensor]:
        images = channels_last(self._views.batch(index, view).to(self.device, non_blocking=True))
        signals = self._source.read(view, index, images) if self._source is not None else None
        labels = self._labels[index.to(self._labels.device)]
        output = self._predict(images)
        progress = self.step / self._total_steps
        constant = signals.detached() if signals is not None else None
        terms = self.objective.terms(Batch(labels, output, constant, progress, self.step))
        if self._source is not None and signals is not None:
            terms.update(self._source.losses(signals, labels, output.logits.detach()))
        self._update(terms)
        return terms

    def _predict(self, images: Tensor) -> StudentOutput:
        if self.train.precision == "fp32":
            return cast(StudentOutput, self._forward(images))
        kind = torch.bfloat16 if self.train.precision == "bf16" else torch.float16
        with torch.autocast(self.device.type, kind):
            z, h, maps = self._forward(images)
        return StudentOutput(z.float(), h.float(), None if maps is None else maps.float())

    def _update(self, terms: dict[str, Tensor]) -> None:
        """One backward pass for all learners (their losses share no gradients), one step for each."""
        for optimizer in (self._optimizer, *self._others):
            optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(terms.values())).sum()
        (self._scaler.scale(total) if self._scaler else total).backward()
        self._group.average_gradients(self._learning)
        if self.train.schedule != "schedule_free":
            set_rate(self._optimizer, self.train.lr * rate(self.train.schedule, self.step, self._total_steps))
        for optimizer in self._others:
            set_rate(optimizer, self.method.generator_lr * rate("one_cycle", self.step, self._total_steps))
        for optimizer in (self._optimizer, *self._others):
            if self._scaler:
                self._scaler.step(optimizer)
            else:
                optimizer.step()
        if self._scaler:
            self._scaler.update()

    def _selection_due(self) -> bool:
        every = max(1, round(self.method.reselect_every * self.train.epochs))
        return isinstance(self.objective, GeneratedTeachers) and self.epoch % every == 0

    @torch.no_grad()
    def _reselect(self) -> None:
        """Select teachers on a fixed sample of training rows, with the student as it is; rank 0's choice."""
        objective = self.objective
        if not isinstance(objective, GeneratedTeachers) or objective.generators is None:
            return
        assert self._source is not None
        index, view = self._sample(_SAMPLE_ROWS, "selection")
        images = channels_last(self._views.batch(index, view).to(self.device))
        signals = self._source.read(view, index, images).detached()
        self.student.eval()
        output = self._predict(images)
        self.student.train()
        generator = child_generator(self._seed, "selection", self.epoch)
        objective.reselect(output, signals, self._labels[index.to(self._labels.device)], generator)
        assert objective.selection is not None
        chosen = objective.selection
        self._group.share([chosen.candidates, chosen.weights])
        objective.restore(chosen)

    def _sample(self, most: int, name: str) -> tuple[Tensor, Tensor]:
        """A fixed sample of at most so many training images, and a view of each."""
        generator = child_generator(self._seed, "sample", name)
        index = torch.randperm(len(self._views), generator=generator)[:most]
        return index, self._draw_views(len(index), generator)

    @torch.no_grad()
    def eval_student(self) -> nn.Module:
        """A copy of the student to evaluate and ship: plain batch normalisation, eval mode, no gradients.

        With the schedule-free optimiser its weights are the averaged ones, and batch statistics are taken
        anew for them from training images (512, or 1,024 once the budget is spent). The training itself is
        not touched; any rank may call it alone.
        """
        self._optimizer.zero_grad()
        made = desynchronised(frozen_copy(self.student)).eval()
        if self.train.schedule != "schedule_free" or self.step == 0:
            return made
        for ours, copied in zip(self.student.parameters(), made.parameters(), strict=True):
            copied.copy_(averaged(self._optimizer, ours))
        rows = _CALIBRATION_ROWS * (2 if self.epoch >= self.train.epochs else 1)
        index, view = self._sample(rows, "calibration")
        recalibrate(
            made,
            (
                self._views.batch(i, v).to(self.device)
                for i, v in zip(index.split(_CALIBRATION_ROWS), view.split(_CALIBRATION_ROWS), strict=True)
            ),
        )
        return made

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume after a whole epoch needs: tensors and plain values, copied."""
        chosen = getattr(self.objective, "selection", None)
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "student": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "big_models": self._source.state_dict() if self._source is not None else {},
            "optimizers": [o.state_dict() for o in (self._optimizer, *self._others)],
            "selection": None if chosen is None else [chosen.candidates, chosen.weights],
            "scaler": self._scaler.state_dict() if self._scaler else None,
        }
        return cast(dict[str, Any], _copied(state))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, in a trainer built with the same arguments.

        Raises:
            RuntimeError: names or shapes differ. ValueError: the optimisers do.
        """
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        if self._source is not None:
            self._source.load_state_dict(state["big_models"])
        for optimizer, saved in zip((self._optimizer, *self._others), state["optimizers"], strict=True):
            optimizer.load_state_dict(_copied(saved))
        if state["selection"] is not None and isinstance(self.objective, GeneratedTeachers):
            self.objective.restore(Selection(*(part.to(self.device) for part in state["selection"])))
        if self._scaler and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]


class _Means:
    """Running means of named scalars, summed on their device so that no batch waits for a copy."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def check(self, epoch: int) -> dict[str, float]:
        """The means so far; raises Diverged where one is not finite."""
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        means = {name: s / self._counts[name] for name, s in zip(self._sums, sums, strict=True)}
        if not all(math.isfinite(mean) for mean in means.values()):
            raise Diverged(epoch, means)
        return {**means, "total": sum(mean for name, mean in means.items() if name not in NOT_THE_STUDENTS)}


def _copied(value: Any) -> Any:
    """A deep copy of nested dictionaries and lists, with detached tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner) for inner in value]
    return value


def _check(views: ViewSource, bank: Bank | None, class_count: int) -> None:
    if len(views) < 2:
        raise ValueError(f"a student needs at least 2 training images; found {len(views)}")
    if bank is None:
        return
    found = (bank.views, len(bank.labels), bank.classes)
    wanted = (views.views, len(views), class_count)
    if found != wanted:
        raise ValueError(f"the bank holds (views, images, classes) {found}, the data {wanted}")
