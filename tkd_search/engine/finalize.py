"""The end of a search: the front tested once, its files put together, everything written and tracked."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ray.actor import ActorHandle

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import resolve
from tkd_search.config.sections import Settings
from tkd_search.config.settings_json import to_json
from tkd_search.engine.controller import Controller
from tkd_search.engine.pipeline import Prepared, run_stage
from tkd_search.engine.search_state import front_member
from tkd_search.export import write_student
from tkd_search.files import disk_full_errors, write_json
from tkd_search.report import write_report
from tkd_search.results.records import FrontMember, SearchRecord, TrialRecord
from tkd_search.results.summary import write_summary
from tkd_search.tracking.tracker import Tracker

Status = Literal["complete", "interrupted"]
TESTED_FILE = "tested.json"


def finalize(
    config: Config,
    folder: Path,
    trials: str,
    prepared: Prepared,
    controller: Controller,
    queue: ActorHandle,
    tracker: Tracker,
    *,
    status: Status,
    seconds: Callable[[], float],
) -> SearchRecord:
    """Write summary, report, students and tracking; the record of the search.

    Test data are read here alone, and only for the front of a complete search: an interrupted one has no
    test figures yet (NaN), for choosing is not over.

    Args:
        config: the experiment.
        folder: the run's folder on this machine.
        trials: the place of the trials' weights.
        prepared: data, F and bank.
        controller: knows the trials.
        queue: job queue of the worker groups that test the front.
        tracker: is told.
        status: how the search ended.
        seconds: of this driver and of earlier ones, asked once the front is tested.
    """
    search_state = controller.search_state()
    front = {trial.trial_id: resolve(config, trial.config) for trial in search_state.front}
    tested = _test(front, folder, trials, prepared, search_state.front, queue) if status == "complete" else {}
    settings = config.settings()
    ids = tracker.ids()
    record = SearchRecord(
        name=config.name,
        dataset=settings.data.name,
        seed=settings.seed,
        classes=prepared.data.num_classes,
        status=status,
        big_model=prepared.big_model,
        trials=controller.trials(),
        front=tuple(
            _member(
                trial,
                prepared,
                tested.get(trial.trial_id, {}),
                controller.latency_of(front[trial.trial_id].student),
            )
            for trial in search_state.front
        ),
        full_budget=settings.training.epochs,
        hypervolume=search_state.hypervolume,
        reference_point=(float(prepared.big_model.bytes), 1.0 / prepared.data.num_classes),
        wall_seconds=seconds(),
        history=tuple(controller.history),
        tracking_uri=ids.tracking_uri,
        experiment_id=ids.experiment_id,
        parent_run_id=ids.parent_run_id,
        method="" if "method.name" in config.space.leaves else settings.method.name,
    )
    for member in record.front:
        _ship(config, front[member.trial_id], folder, trials, prepared, member)
    write_report(record, folder)
    write_summary(record, folder)
    tracker.search_ended(record)
    return record


def _test(
    settings: Mapping[str, Settings],
    folder: Path,
    trials: str,
    prepared: Prepared,
    front: tuple[TrialRecord, ...],
    queue: ActorHandle,
) -> dict[str, dict[str, Any]]:
    """Test figures by trial; a member that was tested before keeps its figure."""
    import json

    file = folder / TESTED_FILE
    tested: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    missing = [trial for trial in front if trial.trial_id not in tested]
    if missing:
        job = {
            "kind": "test",
            "data": prepared.data_folder,
            "members": [
                {
                    "trial_id": trial.trial_id,
                    "settings": to_json(settings[trial.trial_id]),
                    "weights": storage.below(trials, trial.trial_id, "model.safetensors"),
                }
                for trial in missing
            ],
        }
        for result in run_stage(queue, job):
            if result["kind"] == "tested":
                tested[result["trial_id"]] = {
                    "test_accuracy": result["test_accuracy"],
                    "latency_ms": {str(batch): ms for batch, ms in result["latency_ms"].items()},
                }
        write_json(file, tested, indent=1)
    return tested


def _member(
    trial: TrialRecord, prepared: Prepared, tested: dict[str, Any], limited: float | None
) -> FrontMember:
    """Return a front member; ``limited`` is the latency by which ``search.max_latency`` admitted it."""
    latency = {int(batch): ms for batch, ms in tested.get("latency_ms", {}).items()}
    if limited is not None:
        # The lower of two medians: other work only slows, and an admitted student must not look too slow now.
        latency[1] = min(limited, latency.get(1, limited))
    return front_member(
        trial,
        prepared.big_model,
        test_accuracy=tested.get("test_accuracy", math.nan),
        latency_ms=latency,
    )


def _ship(
    config: Config, settings: Settings, folder: Path, trials: str, prepared: Prepared, member: FrontMember
) -> None:
    """Put a member's weights and description into ``students/<trial>``."""
    target = folder / member.path
    with disk_full_errors(target):
        storage.get_file(
            storage.below(trials, member.trial_id, "model.safetensors"), target / "model.safetensors"
        )
    write_student(
        target,
        member,
        architecture=settings.student,
        method=settings.method.name,
        data=prepared.data,
        big_model=prepared.big_model,
        search=config.name,
        seed=settings.seed,
    )
