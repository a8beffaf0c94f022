"""Train students of a front again on fresh seeds: how much of their accuracy is the luck of one seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tkd_search.api import check_same_data
from tkd_search.comparison.fresh_trainings import FreshTraining, fresh_seeds, train_missing
from tkd_search.comparison.outcomes import read_training
from tkd_search.comparison.paired_statistics import Failure, Row, Training, summarise
from tkd_search.comparison.tables import training_table
from tkd_search.config.experiment_file import Config, stored_config, with_overrides
from tkd_search.data import load_data
from tkd_search.engine.progress import Progress
from tkd_search.engine.run_dir.find_runs import member_of, record_of
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.engine.run_dir.run_lock import run_lock
from tkd_search.errors import UserError
from tkd_search.files import write_text
from tkd_search.results.records import BigModelRecord, FrontMember, SearchRecord
from tkd_search.units import human_bytes, metric_text, ratio_text

FOLDER = "retrained"
"""In a run's folder: the students that were trained again."""


@dataclass(frozen=True)
class Retrained:
    """Results of :func:`retrain_front`.

    Attributes:
        config: the search's experiment.
        rows: one per student of the front that was trained again, cheapest first; also by earlier calls.
        page: the table as Markdown.
        files: the files that were written.
    """

    config: Config
    rows: tuple[Row, ...]
    page: str
    files: tuple[Path, ...]


def retrain_front(
    run: Path, trials: Sequence[str], *, seeds: int, address: str | None, progress: Progress, command: str
) -> Retrained:
    """Train students of a front again, on the search's own images and F, and test each once.

    A training that was done before is not repeated.

    Args:
        run: folder of a search that has ended.
        trials: identifiers of students on its front; none are all of them.
        seeds: number of fresh seeds.
        address: of Ray, as for a search.
        progress: shows stages.
        command: the shell command that repeats this.

    Raises:
        UserError: the search has no record, a trial is not on its front, the images have changed, or an error
            of the machine ended a training.
    """
    record, config = _search_of(run)
    members = [member_of(run, trial) for trial in trials] if trials else list(record.front)
    by_id = {trial.trial_id: trial for trial in record.trials}
    folder, place = run / FOLDER, RunDir.of(config)
    place.refuse_stale()
    check_same_data(run, load_data(config.settings().data).digest)
    tasks = [
        FreshTraining(
            label=member.trial_id,
            seed=seed,
            config=config.fixed(member.config),
            winner=by_id[member.trial_id],
            file=folder / f"{member.trial_id}-{seed}.json",
        )
        for seed in fresh_seeds(config, seeds)
        for member in members
    ]
    folder.mkdir(exist_ok=True)
    with run_lock(run), place.replicated(progress) as owned:
        train_missing(tasks, config, place, address, owned, "students on fresh seeds")
        outcomes = all_outcomes(folder, record)
        rows = summarise(outcomes, base="")
        by_label = {row.label: row for row in rows}
        page = retrained_page(
            [(member, by_label[member.trial_id]) for member in record.front if member.trial_id in by_label],
            record.big_model,
            title=config.name,
            metric=record.metric,
            failures=[outcome for outcome in outcomes if isinstance(outcome, Failure)],
            command=command,
        )
        texts = {"retrained.md": page, "retrained.csv": training_table(outcomes)}
        for name, text in texts.items():
            write_text(run / name, text)
    return Retrained(config, rows, page, tuple(run / name for name in texts))


def all_outcomes(folder: Path, record: SearchRecord) -> list[Training | Failure]:
    """Return the trainings of this and earlier calls, in the order of the front and of the seeds."""
    return [
        read_training(file)
        for member in record.front
        for file in sorted(folder.glob(f"{member.trial_id}-*.json"))
    ]


def retrained_page(
    students: Sequence[tuple[FrontMember, Row]],
    big_model: BigModelRecord,
    *,
    title: str,
    metric: str,
    failures: Sequence[Failure],
    command: str,
) -> str:
    """Return the table as a Markdown page: of every student the search's figure and those of fresh seeds."""
    lines = [
        f"# {title}: students of the front on fresh seeds",
        "",
        f"F: {big_model.name}, test {metric_text(metric)} {big_model.test_accuracy:.2%}. Retention is a "
        "student's ÷ F's. The search chose its students by validation images, on one seed.",
        "",
        "| trial | student | bytes | ratio | test in search | fresh seeds | test, mean ± sd | retention |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(member, row, big_model) for member, row in students),
        "",
        *(f"Failed and left out: {failure}" for failure in failures),
        f"Made by `{command}`",
        "",
    ]
    return "\n".join(lines)


def _line(member: FrontMember, row: Row, big_model: BigModelRecord) -> str:
    sd = f" ± {100 * row.test_sd:.2f}" if math.isfinite(row.test_sd) else ""
    mean = f"{100 * row.test_mean:.2f}{sd}" if row.seeds else "–"
    searched = f"{100 * member.test_accuracy:.2f}" if math.isfinite(member.test_accuracy) else "–"
    retention = f"{big_model.retention(row.test_mean):.3f}" if row.seeds else "–"
    return (
        f"| {member.trial_id} | {member.student} | {human_bytes(member.bytes)} | "
        f"{ratio_text(member.ratio)} | {searched} | "
        f"{row.seeds} | {mean} | {retention} |"
    )


def _search_of(run: Path) -> tuple[SearchRecord, Config]:
    """Return a search's record, and its configuration at the place where its folder is now."""
    record = record_of(run)
    if record is None or not record.front:
        raise UserError(str(run), "a search without a front", "one that has ended", "start its command again")
    moved: Mapping[str, str] = {"output": str(run.absolute().parent), "name": run.absolute().name}
    return record, with_overrides(stored_config(run), moved)
