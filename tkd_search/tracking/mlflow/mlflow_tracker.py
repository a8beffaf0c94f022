"""The tracker that spools for MLflow, and why what drains its spool is a process.

``MlflowTracker`` appends to a spool (microseconds) and keeps one writer **process** running that carries
the spool into MLflow. A process and not a thread, because MLflow costs seconds of Python: importing it,
building a new database, SQLAlchemy on every call. In a thread all that would hold the driver's interpreter
lock while trials wait for their next command, and importing a large library beside the driver's own
imports invites half-initialised modules. A process runs at low priority, keeps MLflow's noise out of the
terminal, may be killed at any time (it is started again and nothing is lost), and outlives a killed driver
just long enough to write what was spooled.
"""

import contextlib
import logging
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tkd_search.results.json_values import to_plain
from tkd_search.results.records import BigModelRecord, EpochRecord, SearchRecord, SearchStart, TrialRecord
from tkd_search.tracking.event_log import EventLog, all_events, read_acknowledged
from tkd_search.tracking.mlflow.writer_process import start_writer, tell
from tkd_search.tracking.mlflow.writer_status import WriterStatus, identify, read_status
from tkd_search.tracking.tracker import Leftover, Tracker
from tkd_search.tracking.uri import StoreIds, absolute_uri, public_uri

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 1.0
_RESTART_SECONDS = 5.0


class MlflowTracker(Tracker):
    """Spools every call under ``folder/tracking`` and keeps a writer process draining it into MLflow.

    Args:
        uri: an MLflow tracking URI; relative sqlite files are taken from the working directory.
        folder: the run's folder; the spool in it identifies the search, so a search that is started
            again there goes on in the same MLflow runs.
        experiment: name of the MLflow experiment; '' is ``tkd_search/<data set>``.
        system_metrics: whether the machine's load is logged as well.

    Raises:
        DiskFullError: from any call that finds no room for its event.
    """

    def __init__(self, uri: str, folder: Path, *, experiment: str = "", system_metrics: bool = False) -> None:
        self._page = {"experiment": experiment, "system_metrics": system_metrics}
        self.uri = absolute_uri(uri)
        self.folder = folder.absolute() / "tracking"
        self._event_log = EventLog(self.folder)
        self._search_id = identify(self.folder, public_uri(self.uri))
        self._known = _Known()
        for event in all_events(self._event_log.path):
            self._known.learn(event.kind, event.data)
        self._writer: subprocess.Popen[bytes] | None = None
        self._watched = self._started = -1e9
        self._told = ""

    def search_started(self, search: SearchStart) -> None:
        """Open the search's page, or open it again."""
        data = {"search_id": self._search_id, **self._page, "search": to_plain(search)}
        self._append("search_started", data)

    def big_model(self, record: BigModelRecord) -> None:
        """Record F's figures."""
        self._append_new("big_model", to_plain(record))

    def trial_started(
        self, trial_id: str, student: str, params: Mapping[str, Any], bytes: int, parameters: int
    ) -> None:
        """Open a trial's page, or open it again."""
        figures = {"bytes": bytes, "parameters": parameters}
        data = {"trial_id": trial_id, "student": student, "params": to_plain(params), **figures}
        self._append_marked("trial_started", data)

    def epoch(self, trial_id: str, record: EpochRecord) -> None:
        """Record one epoch; one that is known already (a trial resumed from an older state) is dropped."""
        self._append_new("epoch", {"trial_id": trial_id, "record": to_plain(record)})

    def trial_ended(self, record: TrialRecord) -> None:
        """Record a trial's end; its epochs have been told before."""
        kept = ("trial_id", "state", "reason", "seconds")
        self._append_marked("trial_ended", {key: to_plain(getattr(record, key)) for key in kept})

    def progress(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the search's own figures."""
        self._append_new("progress", {"step": step, "figures": to_plain(figures)})

    def search_ended(self, record: SearchRecord, folder: Path) -> None:
        """Record the end; the files are read from ``folder`` when the writer gets there."""
        plain = {key: value for key, value in to_plain(record).items() if key not in ("trials", "history")}
        self._append("search_ended", {"folder": str(folder.absolute()), "record": plain})

    def ids(self) -> StoreIds:
        """Where MLflow keeps the search, as far as the writer knows."""
        status = read_status(self.folder)
        same = status.target == public_uri(self.uri)
        return status.ids if same else StoreIds(tracking_uri=public_uri(self.uri))

    def left(self) -> int:
        """How many events the store does not have yet."""
        return max(0, self._missing(len(self._event_log)))

    def close(self, timeout: float = 30.0) -> Leftover:
        """Let the writer finish, at most ``timeout`` seconds, and say what it leaves in the spool."""
        total = len(self._event_log)
        self._event_log.close()
        if total:
            self._finish(total, timeout)
        return self._leftover(total)

    def _finish(self, total: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if self._missing(total) <= 0 and self._alive() is None:
                return
            writer = self._alive() or self._started_now()
            if writer is not None:
                tell(writer, left)
                self._wait(writer, total, deadline)
                if writer.returncode in (0, 3):
                    return
            time.sleep(min(0.5, left))

    def _wait(self, writer: subprocess.Popen[bytes], total: int, deadline: float) -> None:
        """Until the writer ends; it is killed when it overstays, or when another one has done its work."""
        while writer.poll() is None:
            idle = self._missing(total) <= 0
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(2.0 if idle else 0.2)
                return
            if idle or time.monotonic() > deadline + 2:
                writer.kill()
                writer.wait()

    def _missing(self, total: int) -> int:
        return total - 1 - read_acknowledged(self.folder, public_uri(self.uri)).sequence

    def _leftover(self, total: int) -> Leftover:
        status = read_status(self.folder)
        missing = self._missing(total) if total else 0
        hint = (
            "They are written when the same search is started again, or by "
            f"`python -m tkd_search report {self.folder.parent}`."
        )
        return Leftover(
            events=missing,
            reason=status.error or "the store did not finish in time" if missing else "",
            hint=hint if missing else "",
            refused=status.refused,
        )

    def _append_new(self, kind: str, data: dict[str, Any]) -> None:
        """EventLog what has not been told before: metric points have a time, told twice they would double."""
        if not self._known.has(kind, data):
            self._append(kind, data)

    def _append_marked(self, kind: str, data: dict[str, Any]) -> None:
        """EventLog in any case, but say when it is not the first time: then only the state counts."""
        self._append(kind, {**data, "again": True} if self._known.has(kind, data) else data)

    def _append(self, kind: str, data: dict[str, Any]) -> None:
        self._event_log.append(kind, data)
        self._known.learn(kind, data)
        now = time.monotonic()
        if now - self._watched >= _WATCH_SECONDS:
            self._watched = now
            self._watch(now)

    def _watch(self, now: float) -> None:
        if self._alive() is None and now - self._started >= _RESTART_SECONDS:
            self._started_now()
        status: WriterStatus = read_status(self.folder)
        if status.error and not self._told:  # once per outage, in whatever words it fails
            _log.warning(
                "The tracking store has to wait: %s. The search goes on; what the store misses is written "
                "when it is back.",
                status.error,
            )
        self._told = status.error

    def _alive(self) -> subprocess.Popen[bytes] | None:
        return self._writer if self._writer is not None and self._writer.poll() is None else None

    def _started_now(self) -> subprocess.Popen[bytes] | None:
        self._started = time.monotonic()
        try:
            self._writer = start_writer(self.uri, self.folder)
        except OSError as error:  # no memory or no process left: tracking waits, the search goes on
            _log.warning("The tracking writer does not start: %s. The search goes on.", error)
            self._writer = None
        return self._writer


class _Known:
    """What the spool holds already, by kind: trials, their last epochs, the search's last step."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}

    def has(self, kind: str, data: Mapping[str, Any]) -> bool:
        key, place = self._place(kind, data)
        return place <= self._last.get(key, -1)

    def learn(self, kind: str, data: Mapping[str, Any]) -> None:
        key, place = self._place(kind, data)
        self._last[key] = max(place, self._last.get(key, -1))

    @staticmethod
    def _place(kind: str, data: Mapping[str, Any]) -> tuple[tuple[str, str], int]:
        place = data["record"]["epoch"] if kind == "epoch" else data.get("step", 0)
        return (kind, data.get("trial_id", "")), int(place)
