"""The Python interface: read an experiment from a file, search or distil it, and use the results."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkd_search.config.experiment_file import (
    CONFIG_FILE,
    Config,
    differences,
    load_config,
    parse_config,
    stored_config,
    with_overrides,
)
from tkd_search.config.yaml_text import yaml_text
from tkd_search.errors import UserError
from tkd_search.files import read_json
from tkd_search.models.model_settings import CUT, StudentSettings
from tkd_search.results.records import SearchRecord

if TYPE_CHECKING:
    import pandas as pd

    from tkd_search.data import DataBundle
    from tkd_search.engine.progress import Progress
    from tkd_search.engine.search_checks import CheckedSearch
    from tkd_search.tracking.tracker import Tracker

DATA_FILE = "data.json"
"""In a run's folder: the digest of the data set that the run started with."""
_SHOWN = ("trial_id", "student", "latency_ms", "bytes", "ratio", "val_accuracy", "test_accuracy", "retention")


@dataclass(frozen=True)
class Result:
    """Result of a search; a notebook shows its picture and table, ``print`` the table.

    Attributes:
        record: all trials and the front.
        folder: ``<output>/<name>``, with summary, report and students.
        notes: messages for the user, such as events that the tracking store does not have yet.
    """

    record: SearchRecord
    folder: Path
    notes: tuple[str, ...] = ()

    @property
    def front(self) -> "pd.DataFrame":
        """Return the front, cheapest first: a row per student, with its configuration by dotted key."""
        from tkd_search.report.front_csv import front_frame

        return front_frame((self.record,))

    def load(self, trial_id: str, *, trust: bool = False) -> Any:
        """Return a front member's model and its transform; see :func:`tkd_search.load`."""
        from tkd_search.export import load

        paths = {member.trial_id: member.path for member in self.record.front}
        if trial_id not in paths:
            raise UserError("trial", trial_id, f"a trial of the front: {', '.join(paths)}")
        return load(self.folder / paths[trial_id], trust=trust)

    def _shown(self) -> "pd.DataFrame":
        front = self.front
        return front[[name for name in _SHOWN if name in front]]

    def __repr__(self) -> str:
        record = self.record
        states = [trial.state for trial in record.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        trials = f"{len(states)} trials ({counts})" if states else "no trials"
        shown = self._shown().drop(columns="ratio")
        front = (
            shown.to_string(index=False, float_format="{:.4f}".format)
            if len(shown)
            else "no student on the front"
        )
        return f"{record.name}: {record.status}, {trials}\n{front}\n{self.folder}"

    def _repr_html_(self) -> str:
        import base64

        picture = self.folder / "pareto.png"
        image = (
            f'<img width="640" src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}">'
            if picture.exists()
            else ""
        )
        return image + self._shown().to_html(index=False, float_format="{:.4g}".format)


@dataclass(frozen=True)
class Experiment:
    """A checked experiment.

    Example::

        from tkd_search import Experiment
        result = Experiment.from_yaml("configs/digits.yaml", **{"search.trials": 12}).search()
        result.front[["student", "ratio", "test_accuracy"]]
    """

    config: Config

    @classmethod
    def from_yaml(
        cls, path: str | Path | None = None, *, name: str | None = None, **overrides: Any
    ) -> "Experiment":
        """Read a file and override leaves by dotted key (``**{"method.k": 3}``).

        Raises:
            UserError: the file or an override is wrong.
        """
        lines = [f"{key}={yaml_text(value)}" for key, value in overrides.items()]
        return cls(load_config(path, lines, name=name))

    def search(
        self, *, address: str | None = None, progress: "Progress | None" = None, command: str = ""
    ) -> Result:
        """Run or resume the search; the results of a complete one are read.

        Args:
            address: of Ray: ``local`` (default) starts one, ``auto`` finds one; or an address.
            progress: shows stages and trials.
            command: the shell command that starts the search again, kept with the results.

        Raises:
            UserError: the search cannot run here, or a run of this name has another configuration.
        """
        from tkd_search.engine.progress import Silent

        finished = finished_record(self.config)
        if finished is not None:
            return Result(finished, self.config.folder)
        return run_search(self.config, address, progress or Silent(), command)

    def distil(self, point: dict[str, Any] | None = None, **options: Any) -> Result:
        """Train one student, at a point of the space.

        The run is named ``<name>-one-<digest>``, different from the search and from other points.

        Args:
            point: dotted key → value for searched leaves. A leaf that it leaves out has its value in the
                first of ``search.enqueue``, or else its default.
            options: those of :meth:`search`.
        """
        return Experiment(_one(self.config, point or {})).search(**options)


def _one(config: Config, point: Mapping[str, Any]) -> Config:
    """Return the experiment that trains the student at a point, and no other."""
    first = next(iter(config.enqueued()), {})
    fixed = config.fixed({**first, **point})
    if "student.name" in config.space.leaves and fixed.settings().student.name == CUT:
        # The experiment's values are those of its other students; a cut takes none.
        fixed = with_overrides(fixed, {"student.args": {}, "student.depth": StudentSettings().depth})
    return parse_config({**fixed.tree, "name": f"{fixed.name[:60]}-one-{fixed.digest()[:6]}"})


def finished_record(config: Config) -> SearchRecord | None:
    """Return the record of a complete run, None for a run to start or to resume.

    Raises:
        UserError: a run of this name exists with another configuration.
    """
    from tkd_search.engine.run_dir.run_dir import RunDir
    from tkd_search.results.summary import RECORD_FILE, read_record
    from tkd_search.tracking.search_log import read_search_log

    file = config.folder / CONFIG_FILE
    if not file.exists():
        RunDir.of(config).recover()
    if not file.exists():
        return None
    old = stored_config(config.folder)
    if config.storage is not None and old.name != config.name:
        raise UserError(
            f"--name {config.name}",
            f"the run {old.name}, renamed; its weights are in {RunDir.of(old).trials}",
            f"--name {old.name}",
            f"mv {shlex.quote(str(config.folder))} {shlex.quote(str(config.folder.with_name(old.name)))}",
        )
    changed = differences(old, config)
    if changed:
        copied_to = RunDir.of(config).copied_to
        raise UserError(
            f"--name {config.name}",
            f"a run with another configuration in {config.folder}:\n    " + "\n    ".join(changed),
            "the same configuration; budgets (search.trials, max_hours, max_epochs, plateau) may be raised",
            "choose another --name, or remove the folder" + (f" and {copied_to}" if copied_to else ""),
        )
    if not (config.folder / RECORD_FILE).exists():
        return None
    record = read_record(config.folder)
    if record.status != "complete" or _budget_raised(old, config):
        return None
    # A kill before the last event leaves MLflow without the front. A folder that was fetched has no events.
    log = read_search_log(config.folder)
    return None if log.started and (log.end or {}).get("status") != "complete" else record


def check_same_data(folder: Path, digest: str) -> None:
    """Refuse another data set than the run started with: its accuracies are not comparable.

    Raises:
        UserError: the run in ``folder`` started with data of another digest.
    """
    file = folder / DATA_FILE
    if file.exists() and read_json(file)["digest"] != digest:
        raise UserError(
            "data",
            f"other images or labels than those that {folder} started with",
            "the same data",
            "restore the data, or choose another --name; python -m tkd_search evaluate scores other images",
        )


def _budget_raised(old: Config, new: Config) -> bool:
    def limits(config: Config) -> tuple[float, ...]:
        search = config.settings().search
        values = (search.trials, search.max_hours, search.max_epochs, search.plateau)
        return tuple(math.inf if value is None else value for value in values)

    return any(after > before for after, before in zip(limits(new), limits(old), strict=True))


def run_search(
    config: Config,
    address: str | None,
    progress: "Progress",
    command: str,
    most: tuple[int | None, str] | None = None,
) -> Result:
    """Run or resume a search that :func:`finished_record` has found unfinished.

    Arguments and errors are those of :meth:`Experiment.search`; ``most`` is what ``host_workers`` returned
    before Ray was started, by a caller that has started it.

    The run's folder is copied to the storage for the last time after the tracker has closed, because its
    writer changes files there until then.
    """
    from tkd_search.cluster.cluster_limits import launchable_nodes
    from tkd_search.engine.ray_session import host_workers, live_nodes, ray_session, resolve_address
    from tkd_search.engine.run_dir.find_runs import complete_summary
    from tkd_search.engine.run_dir.run_dir import RunDir
    from tkd_search.engine.run_dir.run_lock import run_lock
    from tkd_search.engine.workers.placement import plan_slots

    settings = config.settings()
    data, checked = _check(config, address, progress)
    # Before Ray starts, whose own processes are part of what a search needs.
    most = most or host_workers(address)
    with (
        run_lock(config.folder),
        ray_session(address) as where,
        RunDir.of(config).replicated(progress) as owned,
    ):
        from tkd_search.engine import driver

        nodes = (launchable_nodes() if resolve_address(address) else None) or live_nodes()
        slots = plan_slots(settings.resources, nodes, settings.search.trials, most)
        progress.note(f"{where}; {slots.arithmetic}")
        if config.storage is None and len(nodes) > 1:
            progress.note(
                f"warning: no storage is set: {config.folder.absolute().parent} must be a folder that all "
                f"{len(nodes)} machines share, or give --set storage=s3://…, gs://… or such a folder"
            )
        _write_start(config, data.digest)
        tracker = _open_tracker(config)
        try:
            record = driver.run_search(
                config,
                data,
                checked=checked,
                slots=slots,
                tracker=tracker,
                progress=owned,
                command=command,
            )
        except BaseException:
            tracker.search_stopped()
            raise
        finally:
            progress.stage("tracking", None)
            leftover = tracker.close()
        record = complete_summary(config.folder, tracker.ids()) or record
    return Result(record, config.folder, tuple(filter(None, [str(leftover)])))


def _check(config: Config, address: str | None, progress: "Progress") -> tuple["DataBundle", "CheckedSearch"]:
    """Refuse a search that cannot run before anything starts or is written.

    Returns:
        The data set, and what the checks found.

    Raises:
        UserError: storage, tracking store, address, resources, data or settings do not fit.
    """
    from tkd_search.config.resolve import left_to_sampler
    from tkd_search.data import load_data
    from tkd_search.engine.host_limits import check_host_limits
    from tkd_search.engine.ray_session import check_address, local_nodes, resolve_address
    from tkd_search.engine.run_dir.run_dir import RunDir
    from tkd_search.engine.search_checks import check_search
    from tkd_search.engine.workers.placement import plan_slots
    from tkd_search.storage.object_store import check_storage, storage_uri
    from tkd_search.tracking.uri import check_uri

    settings = config.settings()
    if config.storage is not None:
        check_storage(storage_uri(config.storage))
    check_uri(settings.tracking.uri or "")
    RunDir.of(config).refuse_stale()
    check_address(address)
    if resolve_address(address) is None:
        check_host_limits()
        plan_slots(settings.resources, local_nodes(), settings.search.trials)
    if ignored := left_to_sampler(config):
        progress.note(ignored)
    progress.stage("data", None)
    data = load_data(settings.data)
    checked = check_search(config, data)
    for note in checked.notes:
        progress.note(note)
    check_same_data(config.folder, data.digest)
    return data, checked


def _write_start(config: Config, digest: str) -> None:
    """Write the configuration and the data's digest to the run's folder."""
    from tkd_search.files import write_text
    from tkd_search.results.summary import reopen

    reopen(config.folder)
    write_text(config.folder / CONFIG_FILE, config.to_yaml())
    write_text(config.folder / DATA_FILE, json.dumps({"digest": digest}))


def _open_tracker(config: Config) -> "Tracker":
    from tkd_search.tracking.tracker import open_tracker

    settings = config.settings().tracking
    return open_tracker(
        settings.uri or "",
        config.folder,
        experiment=settings.experiment,
        system_metrics=settings.system_metrics,
    )
