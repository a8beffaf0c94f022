"""Run a comparison: a search per contestant, then each winner again on fresh seeds, on warm worker groups."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search import storage
from tkd_search.api import finished_record, run_search
from tkd_search.comparison.contestants import (
    Contestant,
    check_equal_students,
    fresh_seeds,
    retrained_config,
    search_config,
)
from tkd_search.comparison.outcomes import failure_of, read_training, training_of
from tkd_search.comparison.paired_statistics import Failure, Row, Training, summarise
from tkd_search.comparison.tables import markdown, write_tables
from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import bank_settings, resolve
from tkd_search.config.settings_json import to_json
from tkd_search.data import load_data
from tkd_search.engine.pipeline import Prepared, prepare_bank, prepare_big_models, run_stage, store_data
from tkd_search.engine.progress import Progress
from tkd_search.engine.ray_session import live_nodes, ray_session
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.engine.run_dir.run_lock import run_lock
from tkd_search.engine.student_weights import store_student_weights
from tkd_search.engine.workers.placement import plan_slots, stage_threads
from tkd_search.engine.workers.pool import open_pool
from tkd_search.errors import UserError
from tkd_search.files import write_json
from tkd_search.results.records import BigModelRecord, SearchRecord, TrialRecord

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison.

    Attributes:
        rows: one per contestant.
        trainings: one per contestant and fresh seed, failed ones among them.
        page: the comparison as Markdown.
        files: the files that were written.
    """

    rows: tuple[Row, ...]
    trainings: tuple[Training | Failure, ...]
    page: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Task:
    """One training on a fresh seed, and the file that keeps its figures."""

    label: str
    seed: int
    config: Config
    winner: TrialRecord
    file: Path


def run_comparison(
    config: Config,
    contestants: Sequence[Contestant],
    *,
    trials: int,
    seeds: int,
    base: str,
    address: str | None,
    progress: Progress,
    command: str,
) -> Comparison:
    """Search, train again, test and tabulate; steps done before under this name are not repeated.

    Args:
        config: the experiment; its name is the comparison's.
        contestants: what is compared.
        trials: of each contestant's search.
        seeds: number of fresh seeds on which each winner is trained again.
        base: label of the contestant that the others are compared with.
        address: of Ray, as for a search.
        progress: shows stages.
        command: the shell command that repeats the comparison.

    Raises:
        UserError: the experiment cannot be compared, a contestant has no complete trial, or an error of the
            machine ended a training (a numerical failure is kept as failed and counted in its row).
        KeyboardInterrupt: interrupted; the same command resumes.
    """
    if base not in [contestant.label for contestant in contestants]:
        raise UserError("--base", repr(base), ", ".join(c.label for c in contestants))
    configs = {c.label: search_config(config, c, trials) for c in contestants if c.winner_of is None}
    check_equal_students(configs)
    # Refuse wrong ablations before anything starts.
    for contestant in contestants:
        retrained_config(config, contestant, configs[contestant.winner_of or contestant.label], {}, 0)
    finished = {label: finished_record(searched) for label, searched in configs.items()}
    with ray_session(address) if None in finished.values() else nullcontext():
        records = {
            label: finished[label] or _search(searched, address, progress, command)
            for label, searched in configs.items()
        }
    winners = {label: _winner(label, record) for label, record in records.items()}
    folder, place = config.folder / "comparison", RunDir.of(config)
    if folder.exists():
        place.refuse_stale()
    else:
        place.recover()
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        _task(config, contestant, configs, winners, seed, folder)
        for seed in fresh_seeds(config, seeds)
        for contestant in contestants
    ]
    with run_lock(config.folder), place.replicated(progress) as owned:
        _retrain([task for task in tasks if not task.file.exists()], config, place, address, owned)
        outcomes = {task.file: read_training(task.file) for task in tasks}
        trainings = tuple(outcomes.values())
        rows = summarise(trainings, base)
        page = markdown(
            rows,
            {label: winner.config for label, winner in winners.items()},
            base=base,
            big_model=next(iter(records.values())).big_model,
            title=config.name,
            command=command,
            metric=config.settings().metric,
            failures={f.relative_to(config.folder): o for f, o in outcomes.items() if isinstance(o, Failure)},
        )
        files = tuple(write_tables(config.folder, page, trainings))
    return Comparison(rows, trainings, page, files)


def _search(config: Config, address: str | None, progress: Progress, command: str) -> SearchRecord:
    progress.note(f"search of {config.name}")
    result = run_search(config, address, progress, command)
    if result.record.status != "complete":
        raise KeyboardInterrupt
    return result.record


def _winner(label: str, record: SearchRecord) -> TrialRecord:
    """Return the complete trial of the highest validation accuracy, the earliest of equal ones."""
    complete = [trial for trial in record.trials if trial.state == "complete"]
    if not complete:
        raise UserError(
            f"contestant {label}",
            "no complete trial",
            "at least one",
            "the reasons of its trials are in MLflow and in its record.json",
        )
    return max(complete, key=lambda trial: trial.val_accuracy)


def _task(
    config: Config,
    contestant: Contestant,
    configs: Mapping[str, Config],
    winners: Mapping[str, TrialRecord],
    seed: int,
    folder: Path,
) -> _Task:
    source = contestant.winner_of or contestant.label
    retrained = retrained_config(config, contestant, configs[source], winners[source].config, seed)
    # The name holds all that determines the outcome: another winner or change is another training.
    file = folder / f"{contestant.label}-{retrained.digest()}-{seed}.json"
    return _Task(contestant.label, seed, retrained, winners[source], file)


def _retrain(
    tasks: Sequence[_Task], config: Config, place: RunDir, address: str | None, progress: Progress
) -> None:
    if not tasks:
        return
    resources = config.settings().resources
    with ray_session(address):
        slots = plan_slots(resources, live_nodes(), len(tasks)).count
        with open_pool(resources, slots, place.folder / "train") as (queue, pool):
            progress.stage("worker groups", None)
            pool.wait(300.0)
            threads = stage_threads(resources, live_nodes(), slots)
            prepared = _prepared(tasks, place, queue, progress, threads)
            progress.stage("winners on fresh seeds", len(tasks))
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
    tasks: Sequence[_Task], place: RunDir, queue: "ActorHandle", progress: Progress, threads: int
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


def _train(queue: "ActorHandle", trials: str, task: _Task, prepared: Prepared) -> Training | Failure:
    """Train one winner on a fresh seed and test it once, or keep why it failed; write the task's file.

    The weights are written below ``trials``.
    """
    outcome = _outcome(queue, trials, task, prepared)
    write_json(task.file, asdict(outcome))
    return outcome


def _outcome(queue: "ActorHandle", trials: str, task: _Task, prepared: Prepared) -> Training | Failure:
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
