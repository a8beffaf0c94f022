"""One search from configuration to front: stages, pool, Tune, and what is written at the end."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
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

from tkd_search.config import Config
from tkd_search.config_sections import Settings
from tkd_search.config_tree import flatten
from tkd_search.data import DataBundle, fixed_views
from tkd_search.files import stated
from tkd_search.models import build_student, model_bytes, model_parameters
from tkd_search.models.latency import torch_threads
from tkd_search.models.settings import StudentSettings
from tkd_search.records import SearchRecord, SearchStart
from tkd_search.search.adapters import RefereeScheduler, RefereeSearcher
from tkd_search.search.budget import DRIVER, Budget, seconds_spent
from tkd_search.search.checks import check_candidates, proposer_settings, warm_start
from tkd_search.search.ending import Status, finish
from tkd_search.search.latency import Latencies, measure_student
from tkd_search.search.nodes import driver_node_resource
from tkd_search.search.pool import WarmPool, open_pool
from tkd_search.search.preflight import Slots, bank_parts, stage_threads
from tkd_search.search.progress import Progress
from tkd_search.search.referee import Referee, Size
from tkd_search.search.rules import rung_rule
from tkd_search.search.session import live_nodes
from tkd_search.search.slot import SlotTrainable
from tkd_search.search.stages import Prepared, prepare_bank, prepare_big_models, store_data
from tkd_search.search.study import SearchStudy
from tkd_search.search.workplace import Workplace
from tkd_search.tracking.spool import Spool, all_events
from tkd_search.tracking.tracker import Tracker

TRIAL_RETRIES = 10
"""How often a trial is started again when its Trainable is lost; a failing trial is not retried. One whose
worker group or machine is lost goes on elsewhere without Tune."""

START_SECONDS = 1800.0
"""Until the first worker group must be up: a cluster that scales from zero installs a machine first."""


def run_search(
    config: Config, data: DataBundle, *, slots: Slots, tracker: Tracker, progress: Progress, command: str
) -> SearchRecord:
    """Run or resume a search on the connected Ray; the caller holds the run's lock.

    Args:
        config: the experiment.
        data: its data set, read and checked.
        slots: how many trials run at once.
        tracker: open; it is told everything and left open.
        progress: shown to the user.
        command: the line that starts this search again.

    Raises:
        KeyboardInterrupt: after everything is written with status ``interrupted``.
    """
    began = time.monotonic()
    place = Workplace.of(config)
    settings = config.settings()
    with (
        place.mirrored(),
        open_pool(settings.resources, slots.count, place.folder / "train", limit=slots_limit(settings)) as (
            broker,
            pool,
        ),
    ):
        data_folder = store_data(data, place.cache)
        candidates = check_candidates(config, data)
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
            config, data, data_folder, place.cache, broker, progress, threads
        )
        tracker.big_model(figures)
        rows = max(fixed_views(settings.data), 1) * len(data.train.labels)
        parts = bank_parts(settings.resources, live_nodes(), pool.attached(), rows)
        bank = prepare_bank(config, data, data_folder, weights, place.cache, broker, progress, threads, parts)
        prepared = Prepared(data, data_folder, weights, figures, bank)
        referee = _referee(config, place, prepared, candidates, tracker, progress, began)
        progress.stage("search", settings.search.trials)
        status: Status = "complete"
        try:
            _tune(referee, broker, pool, prepared, config, place)
        except KeyboardInterrupt:
            status = "interrupted"
        progress.stage("front", None)
        record = finish(
            config,
            place.folder,
            place.trials,
            prepared,
            referee,
            broker,
            tracker,
            status=status,
            seconds=lambda: referee.seconds_before + time.monotonic() - began,
        )
        referee.driver_ended()
        return record


def _referee(
    config: Config,
    place: Workplace,
    prepared: Prepared,
    candidates: int,
    tracker: Tracker,
    progress: Progress,
    began: float,
) -> Referee:
    settings, data = config.settings(), prepared.data

    @lru_cache(maxsize=4096)
    def size_of(student: str) -> Size:
        with torch_threads(1):  # the workers have the cores
            model = build_student(
                by_text[student], classes=data.num_classes, channels=data.channels, size=data.size
            ).model
        return Size(model_bytes(model), model_parameters(model))

    by_text: dict[str, Any] = {}

    def measure(point: Settings) -> Size:
        by_text[repr(point.student)] = point.student
        return size_of(repr(point.student))

    study = SearchStudy.open(
        config.name,
        place.folder / "study.journal",
        space=config.space,
        full_budget=settings.training.epochs,
        rule=rung_rule(config, data.num_classes),
        seed=settings.seed,
        proposer=proposer_settings(settings.search),
        enqueue=config.enqueued(),
        earlier=warm_start(config),
        big_model_bytes=prepared.big_model.bytes,
        classes=data.num_classes,
        size_of=lambda point: measure(config.settings(point)).bytes,
    )
    log = Spool(place.folder / "epochs")
    spent = seconds_spent(all_events(log.path))
    log.append(DRIVER, {"seconds": time.monotonic() - began})
    return Referee(
        config,
        study,
        Budget(settings.search, spent, began),
        measure=measure,
        tracker=tracker,
        log=log,
        candidates=candidates,
        big_model_bytes=prepared.big_model.bytes,
        classes=data.num_classes,
        latency=_latency(settings, place, data),
        changed=lambda standing: progress.standing(standing, settings.search.trials),
    )


def _latency(
    settings: Settings, place: Workplace, data: DataBundle
) -> Callable[[StudentSettings], float] | None:
    limit = settings.search.latency_limit
    if limit is None:
        return None
    return Latencies(place.folder / "latency.json", partial(measure_student, data=data, limit=limit)).of


def _tune(
    referee: Referee,
    broker: ActorHandle,
    pool: WarmPool,
    prepared: Prepared,
    config: Config,
    place: Workplace,
) -> None:
    """Let Ray Tune run trials until the referee has no more.

    Raises:
        DiskFullError: nothing could be written down any more.
        KeyboardInterrupt: interrupted.
    """
    common = {**prepared.common_job(config), "kind": "trial"}
    # A byte: the worker groups hold all the cores, and Tune refuses an empty request. Beside the driver, like
    # the broker: a machine that goes takes a worker group with it, and nothing that Tune counts as a failure.
    beside = PlacementGroupFactory([{"CPU": 0, "memory": 1, driver_node_resource(): 0.0001}])
    tuner = Tuner(
        tune.with_resources(tune.with_parameters(SlotTrainable, broker=broker, common=common), beside),
        tune_config=TuneConfig(
            search_alg=RefereeSearcher(referee, place.trials, pool.room),
            scheduler=RefereeScheduler(referee),
            num_samples=-1,
            max_concurrent_trials=slots_limit(config.settings()),
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(place.folder),
            verbose=0,
            failure_config=FailureConfig(max_failures=TRIAL_RETRIES),
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with _interrupts(referee):
        tuner.fit()
    if isinstance(referee.broken, OSError):
        raise stated(referee.broken, place.folder) from referee.broken
    if referee.broken is not None:
        raise referee.broken


@contextmanager
def _interrupts(referee: Referee) -> Iterator[None]:
    """Remember Ctrl-C: raised inside a callback of Ray's it may be swallowed, and the search would go on.

    SIGTERM (a cancelled job, a machine that shuts down) ends a search in the same way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: Any) -> None:
        referee.broken = KeyboardInterrupt()
        raise referee.broken

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def slots_limit(settings: Settings) -> int:
    """Most trials at once, should so many machines join."""
    return min(settings.search.trials, settings.resources.max_concurrent or settings.search.trials)
