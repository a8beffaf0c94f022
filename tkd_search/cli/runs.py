"""``runs``: list searches, show their state, stop them, and remove files that are not needed."""

import math
import signal
import time
from pathlib import Path

import click

from tkd_search.cli.option_types import PATH
from tkd_search.engine.run_dir.find_runs import CACHE_FOLDER, all_runs, disk_bytes, record_of, run_folder
from tkd_search.engine.run_dir.run_lock import live_driver
from tkd_search.engine.run_dir.unused_files import Unused, find_unused, remove
from tkd_search.engine.search_state import latest_record
from tkd_search.errors import UserError
from tkd_search.results.costs import COSTS
from tkd_search.results.summary import epochs_spent
from tkd_search.tracking.event_log import EVENTS_FOLDER, events_file, last_sequence
from tkd_search.tracking.mlflow.writer_status import (
    STATE_FOLDER,
    read_acknowledged,
    read_identity,
    read_status,
)
from tkd_search.tracking.search_log import read_search_log
from tkd_search.units import human_bytes

_output = click.option(
    "--output", type=PATH, default="runs", show_default=True, help="Folder that holds the runs."
)


@click.group()
def command() -> None:
    """List, watch, stop and clean up searches."""


@command.command("list")
@_output
def list_runs(output: Path) -> None:
    """List all searches: state, trials, front, hypervolume, size on disk."""
    folders = all_runs(output)
    if not folders:
        click.echo(f"no searches in {output}")
        return
    rows: list[tuple[str, ...]] = [("name", "state", "trials", "front", "hypervolume", "on disk")]
    rows += [_row(folder) for folder in folders]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        click.echo("  ".join(cells).rstrip())
    shared = disk_bytes(output / CACHE_FOLDER)
    if shared:
        click.echo(f"shared by them (data, big models, banks): {human_bytes(shared)}")


def _row(folder: Path) -> tuple[str, ...]:
    size = human_bytes(disk_bytes(folder))
    try:
        record, log = record_of(folder), read_search_log(folder)
    except UserError:  # one damaged run must not hide the others
        return (folder.name, "damaged", "–", "–", "–", size)
    if record is not None and latest_record(record, log) is record and state_of(folder) != "running":
        figures = (str(len(record.trials)), str(len(record.front)), f"{record.hypervolume:.4f}")
    elif log.started:
        front, volume = log.figures.get("front_size", 0), log.figures.get("hypervolume", 0.0)
        figures = (str(len(log.trials)), f"{front:.0f}", f"{volume:.4f}")
    else:
        figures = ("–", "–", "–")
    return (folder.name, state_of(folder), *figures, size)


def state_of(folder: Path) -> str:
    """Return ``running``, ``complete`` or ``interrupted``; a killed search is interrupted."""
    if live_driver(folder) is not None:
        return "running"
    record = record_of(folder)
    return "complete" if record is not None and record.status == "complete" else "interrupted"


@command.command()
@click.argument("name")
@_output
def status(name: str, output: Path) -> None:
    """Show the state of search NAME, its size on disk, and whether its tracking store is complete."""
    folder = run_folder(name, output)
    driver = live_driver(folder)
    by = f" (process {driver.pid} on {driver.host})" if driver is not None else ""
    click.echo(f"{folder.name}: {state_of(folder)}{by}")
    log = read_search_log(folder)
    if log.started:
        states = ("running", "stopped", "complete", "failed")
        counts = ", ".join(f"{log.count(state)} {state}" for state in states)
        epochs = epochs_spent(tuple(log.trials.values()))
        click.echo(
            f"  trials: {len(log.trials)} begun: {counts}; {epochs:,} epochs in {log.seconds / 60:.1f} min"
        )
    if log.figures:
        volume, size = log.figures["hypervolume"], log.figures["front_size"]
        by = COSTS[log.cost].noun
        best = max((e.val_accuracy for t in log.trials.values() for e in t.epochs), default=math.nan)
        click.echo(
            f"  front: {size:.0f} students, hypervolume {volume:.4f} of {by} and accuracy, best validation "
            f"{best:.2%}"
        )
    for part in ("trials", "students", EVENTS_FOLDER):
        click.echo(f"  {part} on disk: {human_bytes(disk_bytes(folder / part))}")
    _print_tracking(folder)


def _print_tracking(folder: Path) -> None:
    state = folder / STATE_FOLDER
    target, status = read_identity(state).target, read_status(state)
    if not target:
        return
    left = last_sequence(events_file(folder)) - read_acknowledged(state, target).sequence
    waits = (
        f", {left} events waiting" + (f": {status.error}" if status.error else "")
        if left > 0
        else f", without files: {status.undelivered}"
        if status.undelivered
        else ", complete"
    )
    click.echo(f"  tracking: {target}{waits}")


@command.command()
@click.argument("name")
@_output
@click.option(
    "--wait", "seconds", default=120.0, show_default=True, help="Seconds to wait until it has ended."
)
def stop(name: str, output: Path, seconds: float) -> None:
    """Stop search NAME as Ctrl-C does: results so far are written, and it can be resumed."""
    folder = run_folder(name, output)
    driver = live_driver(folder)
    if driver is None:
        raise UserError(name, "a search that is not running", "a running search", "see `runs list`")
    if not driver.is_local:
        raise UserError(
            name, f"a search that runs on {driver.host}", "one on this machine", f"stop it on {driver.host}"
        )
    if (process := driver.process()) is not None:
        process.send_signal(signal.SIGINT)  # psutil signals no later process that has the same id
    elif live_driver(folder) is not None:
        raise UserError(
            name,
            f"a search whose process {driver.pid} is not found: it is in a container, or the clock was set",
            "a process that is seen from here",
            f"where it runs, see with `ps {driver.pid}` that it is the search, then `kill -INT {driver.pid}`",
        )
    deadline = time.monotonic() + seconds
    while live_driver(folder) is not None:
        if time.monotonic() > deadline:
            raise UserError(
                name, f"still running after {seconds:g} s", "a search that ends", "wait, or --wait longer"
            )
        time.sleep(0.2)
    click.echo(f"{folder.name}: {state_of(folder)}")


@command.command()
@click.argument("names", nargs=-1)
@_output
@click.option("--keep-front", is_flag=True, help="Also remove the weights of trials that are not on a front.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def clean(names: tuple[str, ...], output: Path, keep_front: bool, dry_run: bool) -> None:
    """Remove banks and checkpoints that are no longer needed.

    NAMES are the searches to clean; default: all. Shared banks and prepared data are removed unless a
    search in the folder is unfinished. Big models, students, reports and records are kept, and every search
    can still be resumed or extended.
    """
    root = output
    folders = [run_folder(name, output) for name in names] or all_runs(root)
    unused = find_unused(root, folders, weights=keep_front)
    for one in unused:
        click.echo(f"{human_bytes(one.bytes):>8}  {one.path}  ({one.reason})")
        if not dry_run:
            remove(one)
    _print_sum(unused, dry_run=dry_run)


def _print_sum(unused: list[Unused], *, dry_run: bool) -> None:
    total = human_bytes(sum(one.bytes for one in unused))
    click.echo(
        f"{total} {'would be' if dry_run else ''} freed".replace("  ", " ") if unused else "nothing to remove"
    )
