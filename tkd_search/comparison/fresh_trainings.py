"""Train given configurations again on fresh seeds, on warm worker groups, and test each student once."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search import storage
from tkd_search.cluster.cluster_limits import launchable_nodes
from tkd_search.comparison.outcomes import failure_of, training_of
from tkd_search.comparison.paired_statistics import Failure, Training
from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import bank_settings, resolve
from tkd_search.config.settings_json import to_json
from tkd_search.data import load_data
from tkd_search.engine.driver import START_SECONDS
from tkd_search.engine.pipeline import Prepared, prepare_bank, prepare_big_models, run_stage, store_data
from tkd_search.engine.progress import Progress
from tkd_search.engine.ray_session import host_workers, live_nodes, ray_session, resolve_address
from tkd_search.engine.run_dir.checkpoint_files import remove_checkpoints
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.engine.student_weights import store_student_weights
from tkd_search.engine.workers.placement import plan_slots, stage_threads
from tkd_search.engine.workers.pool import open_pool
from tkd_search.errors import UserError
from tkd_search.files import write_json
from tkd_search.results.records import BigModelRecord, TrialRecord

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class FreshTraining:
    """One training on a fresh seed.

    Attributes:
        label: the contestant, or the trial that is trained again.
        seed: decides the student's first weights and the order of batches.
        config: the experiment with nothing searched.
        winner: the trial that is trained again.
        file: keeps the figures.
    """

    label: str
    seed: int
    config: Config
    winner: TrialRecord
    file: Path


def fresh_seeds(config: Config, count: int) -> tuple[int, ...]:
    """Return seeds that no search has used."""
    first = 1000 + config.settings().seed
    return tuple(range(first, first + count))


def train_missing(
    trainings: Sequence[FreshTraining],
    config: Config,
    place: RunDir,
    address: str | None,
    progress: Progress,
    stage: str,
) -> None:
    """Run the trainings whose files do not exist; each writes its file.

    Args:
        trainings: they may share data, F and bank, which are prepared once.
        config: resources.
        place: folder and caches.
        address: of Ray, as for a search.
        progress: shows stages and failed trainings.
        stage: what is trained, for ``progress``.

    Raises:
        UserError: an error of the machine ended a training; a numerical failure is kept in its file.
    """
    tasks = [training for training in trainings if not training.file.exists()]
    if not tasks:
        return
    resources = config.settings().resources
    most = host_workers(address)  # before Ray starts, whose own processes are part of what trainings need
    with ray_session(address):
        # Workers of a cluster may have been ended for idleness: Ray starts them again.
        nodes = (launchable_nodes() if resolve_address(address) else None) or live_nodes()
        slots = plan_slots(resources, nodes, len(tasks), most).count
        with open_pool(resources, slots, place.folder / "train") as (queue, pool):
            progress.stage("worker groups", None)
            pool.wait(START_SECONDS)
            threads = stage_threads(resources, live_nodes(), slots)
            prepared = _prepared(tasks, place, queue, progress, threads)
            progress.stage(stage, len(tasks))
            executor = ThreadPoolExecutor(slots)
            run = partial(_train, queue, place.trials)
            jobs = [executor.submit(run, task, prepared[_shared(task.config)]) for task in tasks]
            try:
                for done, (task, job) in enumerate(zip(tasks, jobs, strict=True), start=1):
                    outcome = job.result()
                    progress.advance(done)
                    if isinstance(outcome, Failure):
                        progress.note(f"{outcome}; kept in {task.file}; delete the file to run it again")
            finally:
                # Without waiting for the trainings, which end with the pool: an interrupt is immediate.
                executor.shutdown(wait=False, cancel_futures=True)


def _prepared(
    tasks: Sequence[FreshTraining], place: RunDir, queue: "ActorHandle", progress: Progress, threads: int
) -> dict[str, Prepared]:
    """Return data, F and bank by :func:`_shared`: F of the searches, the bank of each fresh subset.

    A variant may have its own data, F or bank; what contestants share is prepared once.
    """
    prepared: dict[str, Prepared] = {}
    big: dict[str, tuple[tuple[str, ...], BigModelRecord]] = {}
    starts = {
        key: start
        for config in {task.config.to_yaml(): task.config for task in tasks}.values()
        for key, start in store_student_weights(config, place.cache).items()
    }
    for key, config in {_shared(task.config): task.config for task in tasks}.items():
        data = load_data(config.settings().data)
        folder = store_data(data, place.cache)
        whole = _shared(config, subset=False)
        if whole not in big:
            big[whole] = prepare_big_models(config, data, folder, place.cache, queue, progress, threads)
        bank = prepare_bank(config, data, folder, big[whole][0], place.cache, queue, progress, threads)
        prepared[key] = Prepared(data, folder, *big[whole], bank, starts)
    return prepared


def _shared(config: Config, *, subset: bool = True) -> str:
    """Return a key of all that data, F and bank depend on; without ``subset``, of F alone."""
    parts: dict[str, Any] = {
        section: config.tree[section] for section in ("seed", "data", "big_model", "bank")
    }
    settings = config.settings()
    parts["precision"] = [settings.big_model_precision(model) for model in settings.big_models]
    parts["unbalanced"] = [settings.training.class_weights, settings.metric]
    if subset:
        parts["used"] = asdict(bank_settings(config))  # without what the contestant's method does not read
    else:
        parts["data"] = {**parts["data"], "limit_seed": None}
    return json.dumps(parts)


def _train(queue: "ActorHandle", trials: str, task: FreshTraining, prepared: Prepared) -> Training | Failure:
    """Train and test once, or keep why the training failed; write its file.

    The weights are written below ``trials``; checkpoints are deleted once the file is written.
    """
    outcome = _outcome(queue, trials, task, prepared)
    write_json(task.file, asdict(outcome))
    remove_checkpoints(storage.below(trials, task.file.stem))
    return outcome


def _outcome(
    queue: "ActorHandle", trials: str, task: FreshTraining, prepared: Prepared
) -> Training | Failure:
    trial_id = f"fresh{task.seed}"  # equal for all contestants of a seed, which start with the same weights
    target = storage.below(trials, task.file.stem)
    settings = to_json(resolve(task.config))
    job = {
        **prepared.trial_job(),  # no rungs: ``Config.fixed`` has switched the pruner off
        "trial_id": trial_id,
        "settings": settings,
        "folder": target,
        "after_epoch": 0,
    }
    try:
        results = list(run_stage(queue, job))
    except UserError as error:
        if (failure := failure_of(error, task.label, task.seed, task.winner)) is None:
            raise
        return failure
    member = {"trial_id": trial_id, "settings": settings, "folder": target}
    test = {"kind": "test", "data": prepared.data_folder, "members": [member]}
    tested = next(result for result in list(run_stage(queue, test)) if result["kind"] == "tested")
    return training_of(task.label, task.seed, task.winner, results, tested["test_accuracy"])
