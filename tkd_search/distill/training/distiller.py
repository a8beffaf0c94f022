"""The training loop of one student: resumable bit for bit after any epoch, and within long ones."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.signal_source import BankSource
from tkd_search.distill.interfaces import (
    UNLABELLED,
    StopSignal,
    StudentLike,
    StudentOutput,
    ViewSource,
    channels_last,
    never,
)
from tkd_search.distill.load_tensors import load_tensors
from tkd_search.distill.losses.build_objective import build_objective, signal_source
from tkd_search.distill.losses.functional import balanced_class_weights, known_or_predicted
from tkd_search.distill.losses.objective import Batch, Context
from tkd_search.distill.losses.stage_reward import StageReader
from tkd_search.distill.losses.tkd import GeneratedTeachers
from tkd_search.distill.method_needs import needs_of
from tkd_search.distill.method_settings import MethodSettings, MetricName, TrainSettings
from tkd_search.distill.precision import autocast
from tkd_search.distill.quantization.number_format import Format
from tkd_search.distill.quantization.simulation import simulate
from tkd_search.distill.teachers.selection import Selection
from tkd_search.distill.training.batch_order import batches, sample, steps_per_epoch, unlabelled_per_epoch
from tkd_search.distill.training.epoch_stats import EpochStats, Means
from tkd_search.distill.training.evaluation import counts_of, figure
from tkd_search.distill.training.evaluation_copy import evaluation_copy
from tkd_search.distill.training.layer_rates import layer_rates
from tkd_search.distill.training.learners import Learners, copied
from tkd_search.distill.training.read_ahead import images_ahead
from tkd_search.distill.training.reduction import Reduction, SingleProcess
from tkd_search.distill.training.reselection import reselect, selection_due, selection_state
from tkd_search.distill.training.rounding_schedule import RoundingSchedule
from tkd_search.distill.training.step_data import StepReader
from tkd_search.distill.training.sync_batchnorm import ENOUGH_ROWS, StatisticsAverage, synchronised
from tkd_search.seeds import child_generator, child_seed

_SAMPLE_ROWS = 512
_CALIBRATION_ROWS = 512
_CHECK_EVERY = 32


class Distiller:
    """Trains one student by one method.

    Args:
        student: the network to train, in place; moved to ``device``.
        views: the training images. Unlabelled ones teach by the big models alone; an objective that does not
            read them (``ce``) uses the labelled images only.
        method: the objective; ``ce`` needs neither bank nor big models, so it also trains F itself.
        train: optimiser and budget.
        seed: root seed of all randomness of this training except the student's initial weights.
        bank: the bank of the same views; every method but ``ce`` needs it unless ``big_models`` are given.
        big_models: models to run live where there is no bank or views are drawn freely (``views.views`` 0),
            and where ``method.distil_back`` is ``big_model``. In the last case a copy of F learns too, from
            labels and, weighted ρ, from the student; the bank is not read, because its rows would be out of
            date.
        device: torch device.
        reduction: over the workers of this training, which share each batch evenly; None for one worker.
        class_count: number of classes c, checked against the bank.
        balanced: whether an epoch draws all classes equally often, in place of every image once.
        format: number format the student ships in; int8 and int4 train the last ``train.quantise`` of the
            epochs with simulated rounding.
        layer_decay: factor of the learning rate from one twelfth of the layers to the one before it
            (:mod:`tkd_search.distill.training.layer_rates`); below 1 not with the schedule-free optimiser.

    Raises:
        ValueError: the method needs a bank, cells or big models that are missing, the bank does not fit the
            views, or images are mixed and the method reads a bank.
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
        reduction: Reduction | None = None,
        class_count: int,
        balanced: bool = False,
        format: Format = "fp32",
        layer_decay: float = 1.0,
    ) -> None:
        self.method, self.train, self.epoch, self.step = method, train, 0, 0
        self._done, self._seconds, self._means = 0, 0.0, Means()
        self.device, self._reduction, self._seed, self._views = (
            torch.device(device),
            reduction or SingleProcess(),
            seed,
            views,
        )
        _check_data(views, bank, class_count)
        bank = bank.to_if_it_fits(self.device) if bank is not None else None
        self._format, self._balanced, self._layer_decay = format, balanced, layer_decay
        self._class_count = class_count
        simulate(cast(nn.Module, student), format)
        network = cast(nn.Module, student).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ratio = train.unlabelled_ratio if needs_of(method).anything else 0.0
        self._unlabelled = unlabelled_per_epoch(views.labels, ratio)
        self._images_per_epoch = int((views.labels != UNLABELLED).sum()) + self._unlabelled
        rows = self._images_per_epoch // self.steps_per_epoch // self._reduction.size
        joint = self._reduction.size > 1 and rows < ENOUGH_ROWS
        self.student: nn.Module = synchronised(network) if joint else network
        self._statistics = StatisticsAverage(self.student, self._reduction)
        self._rounding = RoundingSchedule(self.student, format, train)
        generator = child_generator(seed, "initial")
        self._source, template = signal_source(method, views, bank, big_models, self.device, train.precision)
        if train.mixes and isinstance(self._source, BankSource):
            raise ValueError(
                "training.mixup and cutmix need big models to run live: a bank has no mixed images"
            )
        self._stages = self._stage_reader()
        stages = self._stages.stages if self._stages else ()
        class_weights = (
            balanced_class_weights(views.labels, class_count).to(self.device)
            if train.class_weights == "balanced"
            else None
        )
        context = Context(
            student, template, self._reduction, generator, train.label_smoothing, class_weights, stages
        )
        self.objective = build_objective(method, context).to(self.device)
        self._reduction.share([*self.student.state_dict().values(), *self.objective.state_dict().values()])
        self._reader = StepReader(
            views.labels.to(self.device),
            self._source,
            method,
            train,
            self._reduction,
            seed=seed,
            unlabelled=self._unlabelled > 0,
        )
        if train.compile:
            # Students of a worker process share the code, of which torch compiles eight forms at most.
            torch.compiler.reset()
        self._forward = torch.compile(self.student) if train.compile else self.student
        self._learners = self._build_learners()

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch: the smallest with equal batches of at most ``batch_size``."""
        return steps_per_epoch(self._images_per_epoch, self.train.batch_size)

    @property
    def _total_steps(self) -> int:
        return self.train.epochs * self.steps_per_epoch

    def _calibration_images(self, rows: int) -> list[Tensor]:
        """Return so many training images, at most 512 a batch; the same ones at every call."""
        index, view = self._sample(rows, "calibration")
        # Parts are equal because recalibration weights every batch alike, whatever its number of rows.
        parts = -(-len(index) // _CALIBRATION_ROWS)
        split = zip(index.tensor_split(parts), view.tensor_split(parts), strict=True)
        return [self._views.batch(i, v).to(self.device) for i, v in split]

    def _sample(self, rows: int, name: str) -> tuple[Tensor, Tensor]:
        """Return indices and views of some of the images that train the student."""
        return sample(self._views, rows, seed=self._seed, name=name, unlabelled=self._unlabelled > 0)

    def _stage_reader(self) -> StageReader | None:
        if self.method.name != "tkd" or self.method.stage_feature == 0:
            return None
        first = torch.zeros(1, dtype=torch.long)
        return StageReader(self.student, channels_last(self._views.batch(first, first).to(self.device)))

    def _build_learners(self) -> Learners:
        teachers = getattr(self.objective, "generators", None)
        of_teachers = list(teachers.named_parameters()) if teachers is not None else []
        of_big_models = [("", p) for p in self._source.parameters()] if self._source is not None else []
        adapters = [("adapter", p) for p in self.objective.student_parameters()]
        of_student = list(self.student.named_parameters())
        return Learners(
            [*of_student, *adapters],
            [(of_teachers, self.method.generator_lr), (of_big_models, self.method.big_model_lr)],
            self.train,
            total=self._total_steps,
            reduction=self._reduction,
            device=self.device,
            rates=[*layer_rates([name for name, _ in of_student], self._layer_decay), *[1.0] * len(adapters)],
        )

    def run_epoch(
        self, should_stop: StopSignal = never, between: Callable[[], None] = lambda: None
    ) -> EpochStats | None:
        """Train one epoch, or what is left of it.

        Args:
            should_stop: called before each batch; must return the same value on all workers.
            between: called after every 32 batches within the epoch, where ``state_dict`` is exact.

        Returns:
            The statistics of the epoch, or None after a stop. After a stop the student is in mid-epoch;
            training can only continue from a ``load_state_dict``.

        Raises:
            Diverged: the loss is not finite (checked every 32 batches and at the end of the epoch).
        """
        self._started = time.perf_counter() - self._seconds
        self.student.train()
        resumed = self._done > 0
        self._rounding.begin_epoch(
            self.epoch, None if resumed else lambda: self._calibration_images(_CALIBRATION_ROWS)
        )
        with self._own_random_state():
            objective, every = self.objective, self.method.reselect_every
            due = not resumed and selection_due(self.epoch, self.train.epochs, every)
            if due and isinstance(objective, GeneratedTeachers):
                self._reselect(objective)
            if not self._train_batches(should_stop, between):
                return None
        losses = self._means.check(self.epoch)
        seconds = time.perf_counter() - self._started
        self.epoch, self._done, self._seconds, self._means = self.epoch + 1, 0, 0.0, Means()
        if not isinstance(self.objective, GeneratedTeachers):
            return EpochStats(self.epoch, losses, (), seconds)
        teachers, agreements = self.objective.teachers(), self.objective.agreements()
        return EpochStats(self.epoch, losses, teachers, seconds, agreements)

    def _train_batches(self, should_stop: StopSignal, between: Callable[[], None]) -> bool:
        """Train the batches that are left of this epoch; return False after a stop."""
        left = itertools.islice(self._batches(), self._done, None)
        with contextlib.closing(images_ahead(self._views, left)) as ready:
            for index, view, images in ready:
                if should_stop():
                    return False
                if self._done % _CHECK_EVERY == 0:
                    torch.manual_seed(self._random_seed())
                self._means.add(self._train_batch(index, view, images))
                self.step, self._done = self.step + 1, self._done + 1
                if self._done % _CHECK_EVERY == 0 and self._done < self.steps_per_epoch:
                    self._means.check(self.epoch)
                    self._seconds = time.perf_counter() - self._started
                    between()
        return True

    def _random_seed(self) -> int:
        """Return the seed of the global random state (dropout) for the next 32 batches."""
        names = ("epoch", self.epoch, self._reduction.rank)
        return child_seed(self._seed, *names, *([self._done] if self._done else []))

    @contextlib.contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Seed the global random state for this epoch and restore it afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._random_seed())
            yield

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(
            self._views,
            self.steps_per_epoch,
            seed=self._seed,
            epoch=self.epoch,
            rank=self._reduction.rank,
            workers=self._reduction.size,
            balanced=self._balanced,
            unlabelled=self._unlabelled,
        )

    def _train_batch(self, index: Tensor, view: Tensor, images: Tensor) -> dict[str, Tensor]:
        data = self._reader.read(index, view, images, self.step)
        if data is None:
            return {}
        signals, output = data.signals, self._predict(data.images)
        batch = Batch(
            data.labels,
            output,
            signals.detached() if signals is not None else None,
            progress=self.step / self._total_steps,
            step=self.step,
            others=data.others,
            share=data.share,
            labelled=data.labelled,
        )
        terms = self.objective.terms(batch)
        if self._source is not None and signals is not None:
            logits = output.logits.detach()
            terms.update(self._source.losses(signals, batch.over_labels, logits, data.labelled))
        self._learners.update(terms.values(), self.step)
        self._statistics.update()
        self._rounding.end_step(self.epoch, self._reduction)
        return terms

    def _predict(self, images: Tensor) -> StudentOutput:
        run = partial(self._output, images)
        return run() if self._stages is None else self._stages(run)

    def _output(self, images: Tensor) -> StudentOutput:
        with autocast(self.device, self.train.precision):
            output = cast(StudentOutput, self._forward(images))
        if self.train.precision == "fp32":
            return output
        maps = None if output.maps is None else output.maps.float()
        return StudentOutput(output.logits.float(), output.features.float(), maps)

    def evaluate(
        self, student: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], metric: MetricName = "accuracy"
    ) -> float:
        """Return a metric of a student over the batches of all workers, in the precision of training.

        Args:
            student: from :meth:`eval_student`.
            batches: normalised images [B, C, H, W] and labels [B], a share on every worker.
            metric: see :func:`~tkd_search.distill.training.evaluation.figure`.
        """
        counts = torch.zeros(1, 3, self._class_count, dtype=torch.int64, device=self.device)
        with autocast(self.device, self.train.precision):
            for of_batch in counts_of(student, batches):
                counts += of_batch.to(self.device)
        return figure(self._reduction.gather(counts).sum(0), metric)

    @torch.no_grad()
    def _reselect(self, objective: GeneratedTeachers) -> None:
        """Select teachers on a fixed sample of training rows."""
        if objective.generators is None:
            return
        assert self._source is not None
        index, view = self._sample(_SAMPLE_ROWS, "selection")
        images = channels_last(self._views.batch(index, view).to(self.device))
        signals = self._source.read(view, index, images).detached()
        self.student.eval()
        output = self._predict(images)
        self.student.train()
        labels = known_or_predicted(self._reader.labels(index), signals.logits)
        generator = child_generator(self._seed, "selection", self.epoch)
        reselect(objective, output, signals, labels, generator, self._reduction)

    @torch.no_grad()
    def eval_student(self) -> nn.Module:
        """Return a copy of the student to evaluate and ship: in eval mode, without gradients.

        Batch normalisations are ordinary ones. With the schedule-free optimiser and with ``train.ema`` its
        weights are the averaged ones, and batch statistics are computed for them from training images (512,
        or 1,024 after the last epoch). With int8 and int4 it computes with simulated rounding, in any epoch;
        the ranges of its inputs are computed from the same images. The training is not affected, and one rank
        may call this alone.
        """
        averaged = self._learners.averaged() if self._learners.averages and self.step > 0 else ()
        rows = _CALIBRATION_ROWS * (2 if self.epoch >= self.train.epochs else 1)
        return evaluation_copy(self.student, self._format, averaged, lambda: self._calibration_images(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return copied tensors and plain values for an exact resume.

        The state is that after a complete epoch, or ``between`` the batches of one (:meth:`run_epoch`).
        """
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "done": self._done,
            "seconds": self._seconds,
            "means": self._means.state_dict(),
            "student": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "big_models": self._source.state_dict() if self._source is not None else {},
            "learners": self._learners.state_dict(),
            "selection": selection_state(self.objective),
        }
        return cast(dict[str, Any], copied(state))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` of a trainer that was built with the same arguments.

        Raises:
            RuntimeError: names or shapes differ.
            ValueError: the optimisers differ.
        """
        load_tensors(self.student, state["student"])
        self.objective.load_state_dict(state["objective"])
        if self._source is not None:
            self._source.load_state_dict(state["big_models"])
        self._learners.load_state_dict(state["learners"])
        if state["selection"] is not None and isinstance(self.objective, GeneratedTeachers):
            self.objective.restore(Selection(*(part.to(self.device) for part in state["selection"])))
        self.epoch, self.step = state["epoch"], state["step"]
        self._done, self._seconds = state["done"], state["seconds"]
        self._means = Means.from_state(state["means"], self.device)


def _check_data(views: ViewSource, bank: Bank | None, class_count: int) -> None:
    if len(views) < 2:
        raise ValueError(f"a student needs at least 2 training images; found {len(views)}")
    if bank is None:
        return
    found = (bank.views, len(bank.labels), bank.classes)
    wanted = (views.views, len(views), class_count)
    if found != wanted:
        raise ValueError(f"the bank has (views, images, classes) {found}, the data {wanted}")
