"""The writer process: writes a run's event log to MLflow (``mlflow_tracker`` says why it is a process).

``python -m tkd_search.tracking.mlflow.writer FOLDER`` with FOLDER = ``<run>/mlflow`` and the URI in
TKD_TRACKING_URI. It reads a batch of events, waits until they are on the disk, writes them merged (one batch
per run), and moves the acknowledged offset. Files (configuration, report, models) have their own offset, so
that an artifact store that fails delays no figure. What failed is tried again, from half a second up to half
a minute apart. The process ends when a line with a number of seconds arrives on standard input and either all
is written or those seconds are over. When standard input closes without such a line (the driver died),
it has a minute. Exit code 0: everything is written; 3: something is left.
"""

import contextlib
import json
import logging
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from tkd_search.files import DiskFullError, sync
from tkd_search.masking import MaskingFormatter, masked, masked_values
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import SearchStart
from tkd_search.tracking.event_log import Event, all_events, events_file, last_sequence, read_events
from tkd_search.tracking.mlflow.layout import Context, changes, fold
from tkd_search.tracking.mlflow.store_errors import reason
from tkd_search.tracking.mlflow.writer_status import (
    DELIVERED_FILE,
    REFUSED_FILE,
    Acknowledged,
    WriterStatus,
    note_runs,
    read_acknowledged,
    read_identity,
    read_status,
    write_acknowledged,
    write_status,
)
from tkd_search.tracking.uri import StoreIds, login_to_environment

_log = logging.getLogger(__name__)
BATCH_EVENTS = 500
POLL_SECONDS = 0.5
_ENDS = ("search_ended", "search_stopped")
ORPHAN_SECONDS = 60.0
_ENVIRONMENT = {
    # A retry inside MLflow would repeat a create whose answer got lost, without looking for its run first.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # Long, because the server may still carry out a request after its timeout, and the whole batch is sent
    # again. A server on a busy machine is slow, and nothing waits for the writer.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A uv project in the working directory is the user's own, not part of a student.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class Drain:
    """Writes one event log to one store: :meth:`step` figures, :meth:`deliver` files.

    Args:
        uri: tracking URI.
        folder: the writer's state, ``<run>/mlflow``.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder, self.target = uri, folder, masked(uri)
        self.path = events_file(folder.parent)
        self._identity = read_identity(folder)
        self.acknowledged = read_acknowledged(folder, self.target)
        self.delivered = read_acknowledged(folder, self.target, DELIVERED_FILE)
        earlier = read_status(folder)
        same = earlier.target == self.target
        self.status = WriterStatus(
            target=self.target,
            ids=earlier.ids if same else StoreIds(tracking_uri=self.target),
            refused=earlier.refused if same else 0,
        )
        self._context = Context()
        for event in all_events(self.path):
            if event.sequence <= self.acknowledged.sequence:
                self._context = fold(self._context, event)
        self._store: Any = None
        self._monitor: Any = None

    def left(self) -> int:
        """Return how many events the store does not have yet, with their files."""
        done = min(self.acknowledged.sequence, self.delivered.sequence)
        return last_sequence(self.path) - done

    def step(self) -> int:
        """Write and acknowledge the next batch, without files; return its number of events.

        Raises:
            Exception: any of the store's; nothing is acknowledged then.
        """
        events, offset = read_events(self.path, self.acknowledged.offset, BATCH_EVENTS)
        if not events:
            return 0
        ends = [number for number, event in enumerate(events, 1) if event.kind in _ENDS]
        if ends and ends[0] < len(events):  # what follows is of a later driver, and another batch
            events, offset = read_events(self.path, self.acknowledged.offset, ends[0])
        sync(self.path)
        context = self._context
        for event in events:
            context = fold(context, event)
        if context.search is not None and self._has_new_parent(context.search):
            self._start_over()
            return 1
        self._write(context, events)
        self._context = context
        self.acknowledged = Acknowledged(target=self.target, offset=offset, sequence=events[-1].sequence)
        write_acknowledged(self.folder, self.acknowledged)
        self._set_status(error="")
        return len(events)

    def _write(self, context: Context, events: list[Event]) -> None:
        from tkd_search.tracking.mlflow.run_pages import end_trials, write_ending, write_opening

        if context.search is None:
            return  # the first event is the driver's own
        store = self._open(context.search)
        self._watch_machine()
        for change in changes(context, events):
            store.apply(change)
        note_runs(self.folder, self.status.ids.parent_run_id, store.known_runs())
        for event in events:
            if event.kind == "search_started":
                write_opening(store)
            if event.kind == "search_ended":
                write_ending(store, event)
            if event.kind in _ENDS:
                end_trials(store, event.time)

    def deliver(self) -> int:
        """Write the files of the next batch whose figures are written; return its number of events.

        Raises:
            Exception: any of the store's; the batch is delivered again then.
        """
        ready = self.acknowledged.sequence - self.delivered.sequence
        if ready <= 0:
            return 0
        events, offset = read_events(self.path, self.delivered.offset, min(ready, BATCH_EVENTS))
        self._write_files(events)
        last = events[-1].sequence if events else self.acknowledged.sequence
        self.delivered = Acknowledged(target=self.target, offset=offset, sequence=last)
        write_acknowledged(self.folder, self.delivered, DELIVERED_FILE)
        self._set_status(undelivered="")
        return len(events)

    def _write_files(self, events: list[Event]) -> None:
        from tkd_search.tracking.mlflow.run_pages import write_ending_files, write_opening_files

        for event in events:
            if event.kind == "search_started":
                search = from_plain(SearchStart, event.data)
                write_opening_files(self._open(search), search)
            if event.kind == "search_ended" and self._context.search is not None:
                write_ending_files(self._open(self._context.search), event, self.folder.parent)

    def _has_new_parent(self, search: SearchStart) -> bool:
        """Return whether the search's run is another than before: someone removed it from the store."""
        before, ids = self.status.ids.parent_run_id, self._open(search).ids()
        self._set_status(ids=ids)
        return before not in ("", ids.parent_run_id) and self.acknowledged.sequence >= 0

    def _start_over(self) -> None:
        """Write every event again, because the new run lacks the earlier ones."""
        self.acknowledged = self.delivered = Acknowledged(target=self.target)
        write_acknowledged(self.folder, self.delivered, DELIVERED_FILE)
        write_acknowledged(self.folder, self.acknowledged)
        self._context = Context()

    def _open(self, search: SearchStart) -> Any:
        from tkd_search.tracking.mlflow.store import MlflowStore

        if self._store is None:
            experiment = self._identity.experiment or f"tkd_search/{search.dataset}"
            self._store = MlflowStore(self.uri, self._identity.search_id, search, experiment, self._refuse)
        self._store.search = search
        return self._store

    def _watch_machine(self) -> None:
        if self._identity.system_metrics and self._monitor is None:
            from tkd_search.tracking.mlflow.system_metrics import start_monitor

            self._monitor = start_monitor(self.uri, self.status.ids.parent_run_id)

    def close(self) -> None:
        """Stop the machine's monitor if there is one."""
        if self._monitor is not None:
            self._monitor.finish()
        self._monitor = None

    def failed(self, error: Exception, what: Literal["error", "undelivered"] = "error") -> None:
        """Record why the store does not take events or files, and look up its runs again next time."""
        if self._store is not None:
            self._store.forget()
        _log.warning("%s: %s", type(error).__name__, error)
        text = reason(error)[:300]
        with contextlib.suppress(OSError, DiskFullError):
            self._set_status(**{what: text})

    def _refuse(self, entry: dict[str, Any]) -> None:
        with (self.folder / REFUSED_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(masked_values(entry), ensure_ascii=False) + "\n")
        self._set_status(refused=self.status.refused + 1)

    def _set_status(self, **what: Any) -> None:
        status = replace(self.status, **what)
        if status != self.status:
            self.status = status
            write_status(self.folder, status)


class Deadline:
    """The time at which the writer must end, read from standard input; None until it arrives."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor, self._text = descriptor, b""
        self.time: float | None = None

    def wait(self, seconds: float) -> None:
        """Sleep, or less when a deadline arrives."""
        if self.time is not None:
            time.sleep(max(0.0, min(seconds, self.time - time.monotonic())))
            return
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return
        more = os.read(self._descriptor, 100)
        self._text += more
        if b"\n" in self._text:
            self.time = time.monotonic() + float(self._text.split(b"\n")[0])
        elif not more:
            self.time = time.monotonic() + ORPHAN_SECONDS

    def over(self) -> bool:
        """Return whether the time has come."""
        return self.time is not None and time.monotonic() >= self.time


def work(drain: Drain, deadline: Deadline) -> int:
    """Write events until the deadline; return 0 where everything is written, 3 otherwise."""
    pause = files_pause = POLL_SECONDS
    files_due = 0.0
    while True:
        try:
            moved, pause = drain.step(), POLL_SECONDS
        except Exception as error:
            drain.failed(error)
            moved, pause = 0, min(30.0, pause * 2)
        if not moved and time.monotonic() >= files_due:
            try:
                moved, files_pause = drain.deliver(), POLL_SECONDS
            except Exception as error:
                drain.failed(error, "undelivered")
                files_pause = min(30.0, files_pause * 2)
                files_due = time.monotonic() + files_pause
        if not moved and deadline.time is not None and drain.left() <= 0:
            return 0
        if deadline.over():
            return 3
        hurry = moved == BATCH_EVENTS or (moved and deadline.time is not None)
        deadline.wait(0 if hurry else pause * random.uniform(0.8, 1.2))


@contextlib.contextmanager
def exclusive(folder: Path, deadline: Deadline) -> Iterator[bool]:
    """Admit one writer per run; yield False where the deadline comes before an earlier writer's end."""
    lock = FileLock(folder / "writer.lock")
    while True:
        try:
            held = lock.acquire(blocking=False)
            break
        except Timeout:
            if deadline.over():
                yield False
                return
            deadline.wait(POLL_SECONDS)
    with held:
        yield True


def main() -> int:
    """Run the process."""
    log = logging.StreamHandler()
    log.setFormatter(MaskingFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    os.environ.update(_ENVIRONMENT)
    with contextlib.suppress(OSError):
        os.nice(5)  # trials have priority
    folder, deadline = Path(sys.argv[1]), Deadline()
    uri = login_to_environment(os.environ["TKD_TRACKING_URI"])
    with exclusive(folder, deadline) as alone:
        if not alone:
            return 3
        with contextlib.closing(Drain(uri, folder)) as drain:
            return work(drain, deadline)


if __name__ == "__main__":
    sys.exit(main())
