"""``report``: draw the report of one or several searches again, from the tracking store or from files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from tkd_search.cli.option_types import PATH
from tkd_search.engine.run_dir.find_runs import complete_summary, record_of, run_folder
from tkd_search.engine.run_dir.run_lock import live_driver
from tkd_search.engine.search_state import latest_record
from tkd_search.errors import UserError
from tkd_search.results.records import SearchRecord
from tkd_search.tracking.mlflow.republish import publish_report
from tkd_search.tracking.search_log import read_search_log
from tkd_search.tracking.uri import StoreIds, known_uri

EPILOG = """\b
Examples:
  python -m tkd_search report runs/digits
  python -m tkd_search report runs/a runs/b --output comparison
  python -m tkd_search report digits --tracking-uri http://127.0.0.1:5000 --output here
"""
_DELIVERY_SECONDS = 120.0


@click.command(epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--output",
    type=PATH,
    metavar="PATH",
    help="Folder to write to  [default: the run's folder; of several runs report-A-B beside them]",
)
@click.option("--tracking-uri", help="Read RUNS by name from this MLflow store.")
@click.option("--files", is_flag=True, help="Read the run's own files instead of the tracking store.")
def command(runs: tuple[str, ...], output: Path | None, tracking_uri: str | None, files: bool) -> None:
    """Write pareto.html, pareto.png and pareto.csv of RUNS, side by side if there are several.

    The figures are read from the tracking store, or from the run's own files where the store cannot be
    reached. Tracking events that a search could not deliver are delivered first.
    """
    from tkd_search.report import write_report

    publish = False
    if tracking_uri is not None:
        records = [_from_store(tracking_uri, name) for name in runs]
        target = output or Path("-".join(("report", *runs)))
    else:
        folders = [run_folder(run) for run in runs]
        found = [_record(folder, from_files=files) for folder in folders]
        records = distinct_names([record for record, _ in found], folders)
        publish = output is None and len(found) == 1 and found[0][1]
        names = "-".join(folder.name for folder in folders)
        target = output or (folders[0] if len(folders) == 1 else folders[0].parent / f"report-{names}")
    made = write_report(records, target)
    for file in made:
        click.echo(str(file))
    if publish and (problem := publish_report(target, made)):
        click.echo(f"not added to MLflow: {problem}", err=True)


def distinct_names(records: Sequence[SearchRecord], folders: Sequence[Path]) -> list[SearchRecord]:
    """Rename searches that share a name after their folders."""
    names = [record.name for record in records]
    return [
        replace(record, name=str(folder)) if names.count(record.name) > 1 else record
        for record, folder in zip(records, folders, strict=True)
    ]


def _from_store(uri: str, name: str) -> SearchRecord:
    from tkd_search.tracking.mlflow.reader import find_search, read_search

    return read_search(uri, find_search(uri, name))


def _record(folder: Path, *, from_files: bool) -> tuple[SearchRecord, bool]:
    """Deliver a run's events and read its record from the store; from its files where that fails.

    The store's front and hypervolume are those of the last end, so a search that goes on is read from files,
    and so is one of which the store lacks a part.

    Returns:
        The record, and whether it was read from the store.
    """
    ids = StoreIds() if from_files else deliver(folder)
    written = record_of(folder)
    latest = latest_record(written, read_search_log(folder))
    if ids.parent_run_id and written is not None and latest is written:
        from tkd_search.tracking.mlflow.reader import read_search

        try:
            stored = read_search(known_uri(ids.tracking_uri), ids.parent_run_id)
            if _outcome(stored) == _outcome(written):
                return stored, True
            problem = "The tracking store does not have the whole search."
        except UserError as error:
            problem = str(error)
        click.echo(f"{problem}\nThe report is made from {folder} instead.", err=True)
    if latest is None:
        hint = "start its command again, or wait"
        raise UserError(str(folder), "a search without results", "one that has trained its big model", hint)
    return latest, False


def _outcome(record: SearchRecord) -> tuple[dict[str, str], set[str]]:
    """Return every trial's state, and the trials of the front."""
    states: dict[str, str] = {trial.trial_id: trial.state for trial in record.trials}
    return states, {member.trial_id for member in record.front}


def deliver(folder: Path) -> StoreIds:
    """Write the events that a run's tracking store does not have yet, and its ids into the summary.

    A live search writes its own events. What cannot be written stays in the log, and a message says why.
    """
    from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker
    from tkd_search.tracking.mlflow.writer_status import STATE_FOLDER, read_identity, read_status

    state = folder / STATE_FOLDER
    target = read_identity(state).target
    if not target:
        return StoreIds()
    if live_driver(folder) is None:
        tracker = MlflowTracker(known_uri(target), folder)
        if tracker.left():
            click.echo(f"delivering what the search could not write to {target} …", err=True)
            leftover = tracker.close(_DELIVERY_SECONDS)
            if str(leftover):
                click.echo(str(leftover), err=True)
    ids = read_status(state).ids
    complete_summary(folder, ids)
    return ids
