"""Write the results of a search: test figures of the front, record, summary, students, report, tracking."""

import math
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ray.actor import ActorHandle

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import resolve
from tkd_search.config.sections import Settings
from tkd_search.config.settings_json import to_json
from tkd_search.data import DataBundle
from tkd_search.engine.controller import Controller
from tkd_search.engine.pipeline import Prepared, run_concurrently
from tkd_search.engine.progress import Progress
from tkd_search.engine.search_state import front_member
from tkd_search.errors import UserError
from tkd_search.export import write_student
from tkd_search.export.shipping import student_files
from tkd_search.files import disk_full_errors, read_json, write_json
from tkd_search.report import write_report
from tkd_search.results.records import BigModelRecord, FrontMember, SearchRecord, TrialRecord
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
    progress: Progress,
    status: Status,
    seconds: Callable[[], float],
) -> SearchRecord:
    """Write students, record, summary and report, record the end in the tracker; return the record.

    Test data are read here only, and only for the front of a complete search. The test figures of an
    interrupted search are NaN, because its front may still change, but those that it had before it was
    extended stay. Record and summary are written before the report, so that an error while drawing cannot
    keep them from being written: it becomes a warning.

    Args:
        config: the experiment.
        folder: the run's folder on this machine.
        trials: the place of the trials' weights.
        prepared: data, F and bank.
        controller: holds the trials.
        queue: job queue of the worker groups that test the front.
        tracker: records the end.
        progress: shows the members that are tested, and the warning of a report that failed.
        status: how the search ended.
        seconds: wall time of this driver and of earlier ones, called after the front is tested.

    Raises:
        UserError: the test of the front failed; everything else is written, with status ``interrupted``.
    """
    front = controller.search_state().front
    resolved = {trial.trial_id: resolve(config, trial.config) for trial in front}
    problem = None
    if status == "complete":
        try:
            _test(resolved, folder, trials, prepared, front, queue, progress)
        except UserError as error:
            problem, status = error, "interrupted"
    tested = _tested(folder)
    record = _record(
        config, resolved, prepared, controller, tracker, tested, status=status, seconds=seconds()
    )
    for member in record.front:
        settings = resolved[member.trial_id]
        ship_student(config, settings, folder, trials, member, prepared.data, prepared.big_model)
    # An interrupt while the report is drawn must leave a search that the same command finishes.
    write_summary(replace(record, status="interrupted"), folder)
    _report(record, folder, progress)
    write_summary(record, folder)
    tracker.search_ended(record)
    if problem is not None:
        raise problem
    return record


def _record(
    config: Config,
    resolved: Mapping[str, Settings],
    prepared: Prepared,
    controller: Controller,
    tracker: Tracker,
    tested: Mapping[str, dict[str, Any]],
    *,
    status: Status,
    seconds: float,
) -> SearchRecord:
    settings, ids, search_state = config.settings(), tracker.ids(), controller.search_state()
    return SearchRecord(
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
                controller.latency_of(resolved[trial.trial_id].student),
            )
            for trial in search_state.front
        ),
        full_budget=settings.training.epochs,
        hypervolume=search_state.hypervolume,
        reference_point=(float(prepared.big_model.cost), 1.0 / prepared.data.num_classes),
        wall_seconds=seconds,
        history=tuple(controller.history),
        tracking_uri=ids.tracking_uri,
        experiment_id=ids.experiment_id,
        parent_run_id=ids.parent_run_id,
        method="" if "method.name" in config.space.leaves else settings.method.name,
        metric=settings.metric,
        cost=settings.search.cost,
    )


def _report(record: SearchRecord, folder: Path, progress: Progress) -> None:
    """Draw the report; an error is shown as a warning, because the results are written already."""
    try:
        write_report(record, folder)
    except Exception as error:
        progress.note(
            f"warning: the report was not written: {type(error).__name__}: {error}\n"
            f"  the results are whole; draw it with: python -m tkd_search report {shlex.quote(str(folder))}"
        )


def _tested(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the test figures that are saved, by trial."""
    file = folder / TESTED_FILE
    return read_json(file) if file.exists() else {}


def _test(
    settings: Mapping[str, Settings],
    folder: Path,
    trials: str,
    prepared: Prepared,
    front: tuple[TrialRecord, ...],
    queue: ActorHandle,
    progress: Progress,
) -> None:
    """Measure the members on the test images and save their figures, in one job each on all free groups.

    Each is saved at once, and a saved one is not measured again.

    Raises:
        UserError: of the first job that failed.
    """
    file, lock, tested = folder / TESTED_FILE, threading.Lock(), _tested(folder)
    jobs = [
        {
            "kind": "test",
            "data": prepared.data_folder,
            "members": [
                {
                    "trial_id": trial.trial_id,
                    "settings": to_json(settings[trial.trial_id]),
                    "folder": storage.below(trials, trial.trial_id),
                }
            ],
        }
        for trial in front
        if trial.trial_id not in tested
    ]
    if not jobs:
        return
    progress.stage("front", len(front))
    progress.advance(len(front) - len(jobs))

    def received(job: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        if result["kind"] != "tested":
            return
        with lock:
            tested[result["trial_id"]] = {
                "test_accuracy": result["test_accuracy"],
                "latency_ms": {str(batch): ms for batch, ms in result["latency_ms"].items()},
            }
            write_json(file, tested, indent=1)
            done = sum(trial.trial_id in tested for trial in front)
            progress.advance(done, f"{result['trial_id']}: test {result['test_accuracy']:.2%}")

    run_concurrently(queue, jobs, received, finish_all=True)


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


def ship_student(
    config: Config,
    settings: Settings,
    folder: Path,
    trials: str,
    member: FrontMember,
    data: DataBundle,
    big_model: BigModelRecord,
) -> None:
    """Write a member's weights and description to ``students/<trial>``.

    Args:
        config: the experiment.
        settings: the member's own, as :func:`~tkd_search.config.resolve.resolve` returns them.
        folder: the run's folder.
        trials: the place of the trials' weights.
        member: the member.
        data: the data set.
        big_model: F's figures.
    """
    target = folder / member.path
    with disk_full_errors(target):
        for name in student_files(settings.student):
            storage.get_file(storage.below(trials, member.trial_id, name), target / name)
    write_student(
        target,
        member,
        architecture=settings.student,
        big_model_settings=settings.big_models[0],
        method=settings.method.name,
        data=data,
        big_model=big_model,
        search=config.name,
        seed=settings.seed,
        metric=settings.metric,
    )
