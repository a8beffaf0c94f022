"""Runs one search: worker groups, big model, bank, trials under Ray Tune, and the final results."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ray import tune
from ray.actor import ActorHandle
from ray.tune import (
    CheckpointConfig,
    FailureConfig,
    PlacementGroupFactory,
    RunConfig,
    TuneConfig,
    Tuner,
)

from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import clip_k
from tkd_search.config.sections import Settings
from tkd_search.config.tree import flatten
from tkd_search.data import DataBundle, fixed_views
from tkd_search.data.networks import student_for
from tkd_search.engine.budget import Budget
from tkd_search.engine.controller import Controller, Size
from tkd_search.engine.finalize import Status, finalize
from tkd_search.engine.latencies import Latencies, measure_latency
from tkd_search.engine.pipeline import Prepared, prepare_bank, prepare_big_models, store_data
from tkd_search.engine.progress import Progress
from tkd_search.engine.ray_session import live_nodes
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.engine.search_checks import CheckedSearch, proposer_settings
from tkd_search.engine.student_weights import store_student_weights
from tkd_search.engine.tune.scheduler import ControllerScheduler
from tkd_search.engine.tune.searcher import ControllerSearcher
from tkd_search.engine.tune.trainable import WorkerGroupTrainable
from tkd_search.engine.workers.cluster_state import driver_node_resource
from tkd_search.engine.workers.placement import Slots, bank_parts, stage_threads
from tkd_search.engine.workers.pool import WarmPool, open_pool
from tkd_search.files import disk_full_or
from tkd_search.formats import FORMATS, Format, shipped_bytes
from tkd_search.models import model_parameters
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.threads import torch_threads
from tkd_search.optimize.history import study_name
from tkd_search.optimize.pareto import CostScale
from tkd_search.optimize.study import SearchStudy
from tkd_search.results.costs import COSTS
from tkd_search.results.records import SearchRecord, SearchStart
from tkd_search.tracking.tracker import Tracker

START_SECONDS = 1800.0
"""Seconds until the first worker group must run: a cluster that scales from zero installs a machine first."""


def run_search(
    config: Config,
    data: DataBundle,
    *,
    checked: CheckedSearch,
    slots: Slots,
    tracker: Tracker,
    progress: Progress,
    command: str,
) -> SearchRecord:
    """Run or resume a search on the connected Ray; the caller holds the run's lock.

    Args:
        config: the experiment.
        data: its data set, read and checked.
        checked: the results of the checks before the start.
        slots: how many trials run at once.
        tracker: records the search; the caller closes it.
        progress: shown to the user.
        command: the shell command that resumes this search.

    Raises:
        KeyboardInterrupt: after everything is written with status ``interrupted``.
    """
    began = time.monotonic()
    place = RunDir.of(config)
    settings = config.settings()
    spent = tracker.logged().seconds
    tracker.driver_started(time.monotonic() - began)
    with open_pool(settings.resources, slots.count, place.folder / "train", limit=slots.limit) as (
        queue,
        pool,
    ):
        data_folder = store_data(data, place.cache)
        tracker.search_started(
            SearchStart(
                name=config.name,
                dataset=settings.data.name,
                seed=settings.seed,
                classes=data.num_classes,
                full_budget=settings.training.epochs,
                config=flatten(config.tree),
                config_yaml=config.to_yaml(),
                command=command,
                dataset_digest=data.digest,
            )
        )
        progress.stage("worker groups", None)
        pool.wait(START_SECONDS)
        threads = stage_threads(settings.resources, live_nodes(), slots.count)
        weights, figures = prepare_big_models(
            config, data, data_folder, place.cache, queue, progress, threads
        )
        if settings.search.cost == "latency":  # now, because no other work of this search runs
            figures = _latencies(settings, place, data).with_latencies(figures, settings.big_models[0])
        tracker.big_model(figures)
        rows = max(fixed_views(settings.data), 1) * len(data.train.labels)
        parts = bank_parts(settings.resources, live_nodes(), pool.attached(), rows)
        bank = prepare_bank(config, data, data_folder, weights, place.cache, queue, progress, threads, parts)
        starts = store_student_weights(config, place.cache)
        prepared = Prepared(data, data_folder, weights, figures, bank, starts)
        budget = Budget(settings.search, spent, began)
        controller = _controller(config, checked, place, prepared, tracker, progress, budget)
        progress.stage("search", settings.search.trials)
        status: Status = "complete"
        try:
            _tune(controller, queue, pool, prepared.trial_job(checked.pruner.levels), slots.limit, place)
        except KeyboardInterrupt:
            status = "interrupted"
        if 0 < len(controller.trials()) < settings.search.trials and controller.budget_reached:
            progress.note(f"no further trial starts: {controller.budget_reached}")
        progress.stage("front", None)
        record = finalize(
            config,
            place.folder,
            place.trials,
            prepared,
            controller,
            queue,
            tracker,
            progress=progress,
            status=status,
            seconds=lambda: spent + time.monotonic() - began,
        )
        tracker.driver_ended()
        return record


def _controller(
    config: Config,
    checked: CheckedSearch,
    place: RunDir,
    prepared: Prepared,
    tracker: Tracker,
    progress: Progress,
    budget: Budget,
) -> Controller:
    settings, data = config.settings(), prepared.data
    by_latency, latencies = settings.search.cost == "latency", _latencies(settings, place, data)
    cost = COSTS[settings.search.cost]
    scale = CostScale(prepared.big_model.cost, cost.decades, cost.unit)

    def latency(student: StudentSettings) -> float:
        with torch_threads(1):
            return latencies.of(student)

    sizes: dict[str, dict[Format, Size]] = {}

    def size(point: Settings) -> Size:
        student = replace(point.student, format="fp32", importance="magnitude", weights=None)
        if repr(student) not in sizes:
            with torch_threads(1):  # the workers use the cores
                sizes[repr(student)] = student_sizes(student, data, settings.big_models[0])
        return sizes[repr(student)][point.student.format]

    def measure(point: Settings) -> Size:
        found = size(point)
        return replace(found, latency=latency(point.student)) if by_latency else found

    def cost_of(point: Mapping[str, Any]) -> float:
        found = size(config.settings(point))  # a sampler's candidates are too many to measure
        return math.nan if by_latency else found.bytes

    journal = place.folder / "study.journal"
    study = SearchStudy.open(
        study_name(journal, config.name),
        journal,
        space=config.space,
        full_budget=settings.training.epochs,
        pruner=checked.pruner,
        seed=settings.seed,
        proposer=proposer_settings(settings.search),
        enqueue=config.enqueued(),
        earlier=checked.earlier,
        scale=scale,
        classes=data.num_classes,
        cost_of=cost_of,
        adjust=lambda point: clip_k(config, point, checked.taps),
    )
    return Controller(
        config,
        study,
        budget,
        measure=measure,
        tracker=tracker,
        scale=scale,
        classes=data.num_classes,
        latency=None if settings.search.latency_limit is None else latency,
        changed=progress.search_state,
    )


def student_sizes(
    student: StudentSettings, data: DataBundle, big_model: BigModelSettings
) -> dict[Format, Size]:
    """Return a student's size in every format, without training; ``big_model`` is what a cut is cut from.

    Raises:
        UserError: the student cannot be built.
    """
    model = student_for(student, big_model, data).model
    parameters = model_parameters(model)
    return {format: Size(bytes=shipped_bytes(model, format), parameters=parameters) for format in FORMATS}


def _latencies(settings: Settings, place: RunDir, data: DataBundle) -> Latencies:
    measure = partial(measure_latency, data=data, big_model=settings.big_models[0])
    return Latencies(place.folder / "latency.json", measure)


def _tune(
    controller: Controller,
    queue: ActorHandle,
    pool: WarmPool,
    common_job: dict[str, Any],
    limit: int,
    place: RunDir,
) -> None:
    """Run trials under Ray Tune until the controller has no more.

    Raises:
        DiskFullError: the disk is full.
        KeyboardInterrupt: interrupted.
    """
    # One byte of memory: the worker groups hold all cores, and Tune refuses an empty request. The
    # Trainables run on the driver's node, so a lost machine ends a worker group and nothing that Tune
    # counts as a failure.
    beside = PlacementGroupFactory([{"CPU": 0, "memory": 1, driver_node_resource(): 0.0001}])
    tuner = Tuner(
        tune.with_resources(
            tune.with_parameters(WorkerGroupTrainable, queue=queue, common=common_job), beside
        ),
        tune_config=TuneConfig(
            search_alg=ControllerSearcher(controller, place.trials, pool.room),
            scheduler=ControllerScheduler(controller),
            num_samples=-1,
            max_concurrent_trials=limit,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(place.folder),
            verbose=0,
            # Tune counts one lost process twice where it was between two trials, and its second failure ends
            # the trial. So the controller restarts lost trials; one whose group is lost goes on in another.
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with _interrupts(controller):
        tuner.fit()
    if isinstance(controller.broken, OSError):
        raise disk_full_or(controller.broken, place.folder) from controller.broken
    if controller.broken is not None:
        raise controller.broken


@contextmanager
def _interrupts(controller: Controller) -> Iterator[None]:
    """Store Ctrl-C in the controller, because Ray may swallow an exception raised inside its callbacks.

    SIGTERM (a cancelled job, a machine that shuts down) ends a search in the same way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: Any) -> None:
        controller.broken = KeyboardInterrupt()
        raise controller.broken

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
