"""Writes what a search has at its start and at its end: facts first, and files apart.

Files go to another place than figures: an artifact store that fails must not keep figures from being written.
"""

import importlib.metadata
import logging
import math
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, RunTag
from PIL import Image

from tkd_search.errors import UserError
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import FrontMember, SearchStart
from tkd_search.tracking.event_log import Event
from tkd_search.tracking.mlflow.layout import LATENCY, PARENT, RUN_STATUS, TAG_PARETO, TAG_PATH, TAG_STATE
from tkd_search.tracking.mlflow.model_flavor import write_flavour
from tkd_search.tracking.mlflow.model_registry import register, retire
from tkd_search.tracking.mlflow.run_description import PREVIEW_FILE, describe
from tkd_search.tracking.mlflow.store import MlflowStore

_log = logging.getLogger(__name__)
REPORT_FILES = ("summary.json", "pareto.csv", "pareto.html", "pareto.png", "record.json")


def write_opening(store: MlflowStore) -> None:
    """Write commit and data set."""
    parent = store.run(PARENT)
    if commit := git_commit():
        store.log(parent, tags=[RunTag("mlflow.source.git.commit", commit)])
    store.dataset()


def write_ending(store: MlflowStore, event: Event) -> None:
    """Write the front's tags and test figures, and the search's status."""
    front = _front(event)
    store.reconcile()
    mark_front(store, {member.trial_id for member in front})
    for member in front:
        _write_figures(store, member, event.time)
    _close(store, store.run(PARENT), event)


def end_trials(store: MlflowStore, time: int) -> None:
    """End the runs of trials that no driver runs any more; they are RUNNING again once they go on."""
    for run in store.children().values():
        if run.info.status == "RUNNING":
            store.client.set_terminated(run.info.run_id, "KILLED", time)


def write_opening_files(store: MlflowStore, search: SearchStart) -> None:
    """Write the files that make the search repeatable: configuration and versions."""
    parent = store.run(PARENT)
    store.text(parent, "config.yaml", search.config_yaml)
    store.text(parent, "constraints.txt", installed_versions())


def write_ending_files(store: MlflowStore, event: Event, folder: Path) -> None:
    """Write the report, and the front's files and registered models.

    The front of an interrupted search is not registered, because it may change and is not tested.
    """
    parent = store.run(PARENT)
    store.files(parent, [folder / name for name in REPORT_FILES if (folder / name).exists()])
    preview(store, parent, folder / "pareto.png")
    for trial_id, run in store.children().items():
        if run.data.tags.get(TAG_PARETO) == "false":
            retire(store, trial_id)
    for member in _front(event):
        shipped = _write_files(store, member, folder, event.time)
        if shipped and event.data["record"]["status"] == "complete":
            register(store, member)


def _front(event: Event) -> list[FrontMember]:
    return [from_plain(FrontMember, member) for member in event.data["record"]["front"]]


def preview(store: MlflowStore, parent: str, picture: Path) -> None:
    """Upload the picture at half its width for the description, where MLflow does not scale pictures."""
    if picture.exists():
        with Image.open(picture) as full, tempfile.TemporaryDirectory() as scratch:
            small = Path(scratch) / PREVIEW_FILE
            full.convert("RGB").resize((full.width // 2, full.height // 2), Image.Resampling.LANCZOS).save(
                small
            )
            store.files(parent, [small])


def _close(store: MlflowStore, parent: str, event: Event) -> None:
    record = event.data["record"]
    status = RUN_STATUS[record["status"]]
    text = describe(record, store.search.command, parent)
    tags = [RunTag("mlflow.note.content", text), RunTag(TAG_STATE, record["status"])]
    figures = {"final_hypervolume": record["hypervolume"], "wall_seconds": record["wall_seconds"]}
    store.log(parent, tags=tags, metrics=news(store, parent, figures, event.time))
    if status != "RUNNING":
        store.client.set_terminated(parent, status, event.time)


def news(store: MlflowStore, run_id: str, figures: Mapping[str, float], time: int) -> list[Metric]:
    """Return the figures that the run does not have yet, because a search may end more than once.

    An unknown figure (NaN) replaces none: an interrupted extension tests nothing.
    """
    shown = store.client.get_run(run_id).data.metrics
    return [
        Metric(key, value, time, 0)
        for key, value in figures.items()
        if shown.get(key) != value and not math.isnan(value)
    ]


def mark_front(store: MlflowStore, members: set[str]) -> None:
    """Tag exactly these trials with ``pareto`` = 'true', and those that left the front with 'false'."""
    for trial_id, run in store.children().items():
        marked = run.data.tags.get(TAG_PARETO)
        if trial_id in members and marked != "true":
            store.client.set_tag(run.info.run_id, TAG_PARETO, "true")
        elif marked == "true" and trial_id not in members:
            store.client.set_tag(run.info.run_id, TAG_PARETO, "false")


def _write_figures(store: MlflowStore, member: FrontMember, time: int) -> None:
    run_id = store.run(member.trial_id)
    figures = {"test_accuracy": member.test_accuracy, "retention": member.retention}
    figures |= {f"{LATENCY}{size}": value for size, value in member.latency_ms.items()}
    store.log(run_id, metrics=news(store, run_id, figures, time), tags=[RunTag(TAG_PATH, member.path)])


def _write_files(store: MlflowStore, member: FrontMember, folder: Path, time: int) -> bool:
    """Write one front member's files; return whether it has any."""
    run_id = store.run(member.trial_id)
    files = sorted(path for path in (folder / member.path).glob("*") if path.is_file()) if member.path else []
    store.files(run_id, files, "model")
    if files:
        _make_model(store, member, folder / member.path, time)
    return bool(files)


def _make_model(store: MlflowStore, member: FrontMember, student: Path, time: int) -> None:
    """Add the files of an MLflow model; without a description the student stays a folder of files."""
    run_id = store.run(member.trial_id)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            made = write_flavour(Path(scratch), student, member, run_id, time)
        except UserError as error:  # permanent: raising it would block every later event
            _log.warning("trial %s is no MLflow model: %s", member.trial_id, error)
            return
        store.files(run_id, made, "model")


def installed_versions() -> str:
    """Return every installed distribution as ``name==version``, one a line, in the form of pip's ``-c``."""
    found = {(one.metadata["Name"] or "", one.version) for one in importlib.metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found) if name)


def git_commit() -> str:
    """Return the commit of the running code, with ``-dirty`` where files differ; '' outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
