"""Run a comparison: a search per contestant, then each winner again on fresh seeds, on warm worker groups."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tkd_search.api import finished_record, run_search
from tkd_search.comparison.contestants import (
    Contestant,
    check_equal_students,
    check_equal_trials,
    retrained_config,
    search_config,
)
from tkd_search.comparison.fresh_trainings import FreshTraining, fresh_seeds, train_missing
from tkd_search.comparison.outcomes import read_training
from tkd_search.comparison.paired_statistics import Failure, Row, Training, summarise
from tkd_search.comparison.tables import markdown, write_tables
from tkd_search.config.experiment_file import Config
from tkd_search.engine.progress import Progress
from tkd_search.engine.ray_session import host_workers, ray_session
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.engine.run_dir.run_lock import run_lock
from tkd_search.errors import UserError
from tkd_search.results.records import SearchRecord, TrialRecord
from tkd_search.tracking.search_log import read_search_log


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
    check_equal_trials(
        {
            label: len(record.trials if record else read_search_log(configs[label].folder).trials)
            for label, record in finished.items()
        },
        trials,
    )
    most = host_workers(address)
    with ray_session(address) if None in finished.values() else nullcontext():
        records = {
            label: finished[label] or _search(searched, address, progress, command, most)
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
        train_missing(tasks, config, place, address, owned, "winners on fresh seeds")
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


def _search(
    config: Config, address: str | None, progress: Progress, command: str, most: tuple[int | None, str]
) -> SearchRecord:
    progress.note(f"search of {config.name}")
    result = run_search(config, address, progress, command, most)
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
) -> FreshTraining:
    source = contestant.winner_of or contestant.label
    retrained = retrained_config(config, contestant, configs[source], winners[source].config, seed)
    # The name holds all that determines the outcome: another winner or change is another training.
    file = folder / f"{contestant.label}-{retrained.digest()}-{seed}.json"
    return FreshTraining(contestant.label, seed, retrained, winners[source], file)
