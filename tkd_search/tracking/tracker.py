"""Records a search in its event log, and opens the tracker that also sends it to MLflow."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkd_search.files import DiskFullError
from tkd_search.results.json_values import to_plain
from tkd_search.results.records import BigModelRecord, EpochRecord, SearchRecord, SearchStart, TrialRecord
from tkd_search.tracking.event_log import EventLog
from tkd_search.tracking.search_log import DRIVER_STARTED, SearchLog, read_search_log
from tkd_search.tracking.uri import StoreIds, is_off


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What a tracking store does not have when its tracker closes.

    Attributes:
        events: number of events that the store does not have yet.
        reason: why.
        undelivered: why it does not have every file (report, models) yet.
        hint: what to do next.
        refused: number of entries that the store will never take.
    """

    events: int = 0
    reason: str = ""
    undelivered: str = ""
    hint: str = ""
    refused: int = 0

    def __str__(self) -> str:
        """Return one or two sentences for the terminal, empty where nothing is left."""
        left = ""
        if self.events:
            left = f"{self.events} events are not in the tracking store yet ({self.reason}). {self.hint}"
        elif self.undelivered:
            left = f"Files are not in the tracking store yet ({self.undelivered}). {self.hint}"
        refused = (
            f"The tracking store refused {self.refused} entries; see refused.jsonl." if self.refused else ""
        )
        return " ".join(part for part in (left, refused) if part)


class Tracker:
    """Appends a search's events to the log in its run's folder; no call waits for anything but that file.

    Every call may be repeated after a crash. An epoch, F's figures and a trial's end are recorded once; a
    trial that starts again is recorded with ``again``.

    Args:
        run: the run's folder.

    Raises:
        DiskFullError: from any call that finds no room for its event.
    """

    def __init__(self, run: Path) -> None:
        self.run = run.absolute()
        self.log = EventLog(self.run)
        known = read_search_log(self.run)
        self._epochs = {name: trial.epochs_trained for name, trial in known.trials.items()}
        self._ended = {name for name, trial in known.trials.items() if trial.state != "running"}
        self._has_big_model = known.big_model is not None

    def logged(self) -> SearchLog:
        """Return the search so far, read from the event log."""
        return read_search_log(self.run)

    def driver_started(self, seconds: float) -> None:
        """Record a driver's start, ``seconds`` after its work began."""
        self._append(DRIVER_STARTED, {"seconds": seconds})

    def driver_ended(self) -> None:
        """Record that the driver is done, so that the time up to now counts as its own."""
        self._append("driver_ended", {})

    def search_started(self, search: SearchStart) -> None:
        """Record the search's settings, also when a search is resumed."""
        self._append("search_started", to_plain(search))

    def big_model(self, record: BigModelRecord) -> None:
        """Record F's figures, before the first trial."""
        if not self._has_big_model:
            self._append("big_model", to_plain(record))
        self._has_big_model = True

    def trial_started(self, trial: TrialRecord) -> None:
        """Record that a trial starts or goes on: its settings and its student's cost."""
        if trial.trial_id in self._ended:
            return
        facts = {key: getattr(trial, key) for key in ("trial_id", "student", "bytes", "parameters")}
        latency = {} if trial.latency is None else {"latency": trial.latency}
        again = {"again": True} if trial.trial_id in self._epochs else {}
        self._append("trial_started", {**facts, "params": to_plain(trial.config), **latency, **again})
        self._epochs.setdefault(trial.trial_id, 0)

    def epoch(self, trial_id: str, record: EpochRecord) -> None:
        """Record one epoch of a trial; the first record of an epoch counts."""
        if record.epoch > self._epochs.get(trial_id, 0):
            self._append("epoch", {"trial_id": trial_id, "record": to_plain(record)})
            self._epochs[trial_id] = record.epoch

    def trial_ended(self, record: TrialRecord, search: Mapping[str, float]) -> None:
        """Record that a trial is complete, stopped or failed, in one event with the search's own figures.

        Args:
            record: the trial; its epochs are recorded already.
            search: ``step`` (number of trials that ended), ``hypervolume``, ``front_size``, ``epochs_spent``.
        """
        if record.trial_id in self._ended:
            return
        end = {key: to_plain(getattr(record, key)) for key in ("trial_id", "state", "reason", "seconds")}
        self._append("trial_ended", {**end, "search": dict(search)})
        self._ended.add(record.trial_id)

    def search_ended(self, record: SearchRecord) -> None:
        """Record that the search is over or interrupted; the run's folder holds its summary and students."""
        plain = {key: value for key, value in to_plain(record).items() if key not in ("trials", "history")}
        self._append("search_ended", {"record": plain})

    def search_stopped(self) -> None:
        """Record that an error or an interrupt ended the driver before the search's end; never raises."""
        with contextlib.suppress(DiskFullError):
            self._append("search_stopped", {})

    def ids(self) -> StoreIds:
        """Return where a tracking store keeps the search; empty strings while that is unknown."""
        return StoreIds()

    def close(self, timeout: float = 30.0) -> Leftover:
        """Wait until the store has every event, at most ``timeout`` seconds."""
        self.log.close()
        return Leftover()

    def _append(self, kind: str, data: dict[str, Any]) -> None:
        self.log.append(kind, data)


def open_tracker(
    uri: str, run: Path, *, experiment: str | None = None, system_metrics: bool = False
) -> Tracker:
    """Return the tracker for a tracking URI.

    Args:
        uri: anything MLflow takes (``sqlite:///mlflow.db``, ``http://…``, ``postgresql://…``); '' is
            MLFLOW_TRACKING_URI or else ``sqlite:///mlflow.db`` in the working directory; 'none' keeps the
            event log alone.
        run: the run's folder, ``runs/<name>``.
        experiment: name of the MLflow experiment; None is ``tkd_search/<data set>``.
        system_metrics: whether CPU, memory, disk, network and GPU use of this machine are logged as well.
    """
    if is_off(uri):
        return Tracker(run)
    from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker  # which needs Tracker from here

    return MlflowTracker(uri, run, experiment=experiment or "", system_metrics=system_metrics)
