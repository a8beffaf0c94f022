"""Sends the event log to MLflow through a writer process.

The writer is a **process**, not a thread, because MLflow costs seconds of Python: importing it, creating a
database, SQLAlchemy on every call. In a thread all that would hold the driver's interpreter lock while trials
wait for their next command, and importing a large library beside the driver's own imports invites
half-initialised modules. A process runs at low priority, keeps MLflow's output out of the terminal, may be
killed at any time (it is started again and nothing is lost), and outlives a killed driver just long enough to
write what was logged.
"""

import contextlib
import logging
import subprocess
import time
from pathlib import Path
from typing import Any

from tkd_search.masking import masked
from tkd_search.tracking.mlflow.writer_process import end_writer, start_writer
from tkd_search.tracking.mlflow.writer_status import (
    ACKNOWLEDGED_FILE,
    DELIVERED_FILE,
    STATE_FOLDER,
    Identity,
    identify,
    read_acknowledged,
    read_status,
)
from tkd_search.tracking.tracker import Leftover, Tracker
from tkd_search.tracking.uri import StoreIds, absolute_uri

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 1.0
_RESTART_SECONDS = 5.0


class MlflowTracker(Tracker):
    """Appends events to the run's log and keeps a writer process that carries them into MLflow.

    Args:
        uri: an MLflow tracking URI; relative sqlite files are taken from the working directory.
        run: the run's folder. ``run/mlflow`` identifies the search, so a search that is started again in the
            same folder goes on in the same MLflow runs.
        experiment: name of the MLflow experiment; '' is ``tkd_search/<data set>``.
        system_metrics: whether the machine's load is logged as well.

    Raises:
        DiskFullError: from any call that finds no room for its event.
    """

    def __init__(self, uri: str, run: Path, *, experiment: str = "", system_metrics: bool = False) -> None:
        super().__init__(run)
        self.uri = absolute_uri(uri)
        self.folder = self.run / STATE_FOLDER
        self._target = masked(self.uri)
        self._experiment, self._system_metrics = experiment, system_metrics
        self._writer: subprocess.Popen[bytes] | None = None
        self._watched = self._started = -1e9
        self._error = ""
        if len(self.log):
            self._identify()

    def _identify(self) -> Identity:
        return identify(
            self.folder, self._target, experiment=self._experiment, system_metrics=self._system_metrics
        )

    def ids(self) -> StoreIds:
        """Return where MLflow keeps the search, as far as the writer knows."""
        status = read_status(self.folder)
        return status.ids if status.target == self._target else StoreIds(tracking_uri=self._target)

    def left(self) -> int:
        """Return how many events the store does not have yet, with their files."""
        return max(0, self._missing(len(self.log)))

    def close(self, timeout: float = 30.0) -> Leftover:
        """Let the writer finish within ``timeout`` seconds and return what it could not write."""
        total = len(self.log)
        self.log.close()
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
                end_writer(writer, left)
                self._wait(writer, total, deadline)
                if writer.returncode in (0, 3):
                    return
            time.sleep(min(0.5, left))

    def _wait(self, writer: subprocess.Popen[bytes], total: int, deadline: float) -> None:
        """Wait for the writer's end; kill it at the deadline, or once another writer has done its work."""
        while writer.poll() is None:
            idle = self._missing(total) <= 0
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(2.0 if idle else 0.2)
                return
            if idle or time.monotonic() > deadline + 2:
                writer.kill()
                writer.wait()

    def _missing(self, total: int) -> int:
        return total - 1 - min(self._written(), self._written(DELIVERED_FILE))

    def _written(self, file: str = ACKNOWLEDGED_FILE) -> int:
        return read_acknowledged(self.folder, self._target, file).sequence

    def _leftover(self, total: int) -> Leftover:
        status = read_status(self.folder)
        missing = total - 1 - self._written() if total else 0
        without_files = bool(total) and self._missing(total) > 0
        hint = f"They are written by `python -m tkd_search report {self.folder.parent}`."
        return Leftover(
            events=missing,
            reason=status.error or "the store did not finish in time" if missing else "",
            undelivered=(status.undelivered or "they were not written in time") if without_files else "",
            hint=hint if missing or without_files else "",
            refused=status.refused,
        )

    def _append(self, kind: str, data: dict[str, Any]) -> None:
        if self._watched < 0:
            self._identify()  # before the first event, so that any writer finds it
        super()._append(kind, data)
        now = time.monotonic()
        if now - self._watched >= _WATCH_SECONDS:
            self._watched = now
            self._watch(now)

    def _watch(self, now: float) -> None:
        if self._alive() is None and now - self._started >= _RESTART_SECONDS:
            self._started_now()
        status = read_status(self.folder)
        if status.error and not self._error:  # once per outage, in whatever words it fails
            _log.warning(
                "The tracking store has to wait: %s. The search goes on; what the store misses is written "
                "when it is back.",
                status.error,
            )
        self._error = status.error

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
