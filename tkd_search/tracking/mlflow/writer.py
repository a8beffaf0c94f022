"""The writer process: drains a search's spool into MLflow (see ``mlflow_tracker`` for why it is a process).

``python -m tkd_search.tracking.mlflow.writer FOLDER`` with the address in TKD_TRACKING_URI. It reads a
batch of events, waits until they are on the disk, writes them merged (one batch per run), and moves the
acknowledged offset. Whatever fails is tried again, from half a second up to half a minute apart. It ends
when a line with a number of seconds comes in on standard input and the spool is drained or the time is
up, or when that closes without one (the driver died): then it has a minute. Exit code 0: everything is
stored; 3: something is left.
"""

import contextlib
import fcntl
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
from typing import Any

from tkd_search.files import DiskFullError, sync
from tkd_search.tracking.event_log import (
    EVENTS_FILE,
    Acknowledged,
    Event,
    all_events,
    last_sequence,
    read_acknowledged,
    read_events,
    write_acknowledged,
)
from tkd_search.tracking.mlflow.layout import Context, changes, fold
from tkd_search.tracking.mlflow.store_errors import reason
from tkd_search.tracking.mlflow.writer_status import (
    REFUSED_FILE,
    WriterStatus,
    note_runs,
    read_status,
    write_status,
)
from tkd_search.tracking.uri import StoreIds, login_to_environment, public_uri

_log = logging.getLogger(__name__)
BATCH_EVENTS = 500
POLL_SECONDS = 0.5
ORPHAN_SECONDS = 60.0
_ENVIRONMENT = {
    # A retry inside MLflow would repeat a create whose answer got lost, without looking first.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # Long, for a request given up on may still be carried out, and its whole batch is sent again: a server on
    # a busy machine takes a while, and nobody waits for the writer.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A uv project in the working directory is the user's own, not part of a student.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class Drain:
    """One spool on its way into one store; :meth:`step` moves a batch."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder, self.target = uri, folder, public_uri(uri)
        self.path = folder / EVENTS_FILE
        self.acknowledged = read_acknowledged(folder, self.target)
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
        """How many events the store does not have yet."""
        return last_sequence(self.path) - self.acknowledged.sequence

    def step(self) -> int:
        """Write the next batch, acknowledge it and return how many events it held.

        Raises whatever the store raises; nothing is acknowledged then.
        """
        events, offset = read_events(self.path, self.acknowledged.offset, BATCH_EVENTS)
        if not events:
            return 0
        sync(self.path)
        context = self._context
        for event in events:
            context = fold(context, event)
        self._write(context, events)
        self._context = context
        self.acknowledged = Acknowledged(target=self.target, offset=offset, sequence=events[-1].sequence)
        write_acknowledged(self.folder, self.acknowledged)
        self._say(error="")
        return len(events)

    def _write(self, context: Context, events: list[Event]) -> None:
        from tkd_search.tracking.mlflow.run_pages import write_ending, write_opening

        store = self._open(context)
        self._say(ids=store.ids())
        self._watch_machine(context)
        for change in changes(context, events):
            store.apply(change)
        note_runs(self.folder, self.status.ids.parent_run_id, store.known_runs())
        for event in events:
            if event.kind == "search_started":
                write_opening(store)
            if event.kind == "search_ended":
                write_ending(store, event)

    def _open(self, context: Context) -> Any:
        from tkd_search.tracking.mlflow.store import MlflowStore

        assert context.search is not None, "a spool begins with search_started"
        if self._store is None:
            self._store = MlflowStore(
                self.uri, context.search_id, context.search, context.experiment, self._refuse
            )
        self._store.search = context.search
        return self._store

    def _watch_machine(self, context: Context) -> None:
        if context.system_metrics and self._monitor is None:
            from tkd_search.tracking.mlflow.system_metrics import start_monitor

            self._monitor = start_monitor(self.uri, self.status.ids.parent_run_id)

    def close(self) -> None:
        """Stop the machine's monitor, where there is one."""
        if self._monitor is not None:
            self._monitor.finish()
        self._monitor = None

    def failed(self, error: Exception) -> None:
        """State why the store does not take events, and look everything up again next time."""
        if self._store is not None:
            self._store.forget()
        _log.warning("%s: %s", type(error).__name__, str(error).replace(self.uri, self.target))
        text = reason(error).replace(self.uri, self.target)[:300]
        with contextlib.suppress(OSError, DiskFullError):
            self._say(error=text)

    def _refuse(self, entry: dict[str, Any]) -> None:
        with (self.folder / REFUSED_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._say(refused=self.status.refused + 1)

    def _say(self, **what: Any) -> None:
        status = replace(self.status, **what)
        if status != self.status:
            self.status = status
            write_status(self.folder, status)


class Orders:
    """Standard input as orders: how long the writer may still live (None: no end in sight)."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor, self._text = descriptor, b""
        self.deadline: float | None = None

    def wait(self, seconds: float) -> None:
        """Sleep, or less when an order comes in."""
        if self.deadline is not None:
            time.sleep(max(0.0, min(seconds, self.deadline - time.monotonic())))
            return
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return
        more = os.read(self._descriptor, 100)
        self._text += more
        if b"\n" in self._text:
            self.deadline = time.monotonic() + float(self._text.split(b"\n")[0])
        elif not more:
            self.deadline = time.monotonic() + ORPHAN_SECONDS

    def over(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def work(drain: Drain, orders: Orders) -> int:
    """Drain until told to end; 0 where everything is stored, 3 otherwise."""
    pause = POLL_SECONDS
    while True:
        try:
            moved, pause = drain.step(), POLL_SECONDS
        except Exception as error:
            drain.failed(error)
            moved, pause = 0, min(30.0, pause * 2)
        if not moved and orders.deadline is not None and drain.left() <= 0:
            return 0
        if orders.over():
            return 3
        hurry = moved == BATCH_EVENTS or (moved and orders.deadline is not None)
        orders.wait(0 if hurry else pause * random.uniform(0.8, 1.2))


@contextlib.contextmanager
def exclusive(folder: Path, orders: Orders) -> Iterator[bool]:
    """One writer per spool: waits for an earlier one to end, as long as the orders allow."""
    with (folder / "writer.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if orders.over():
                    yield False
                    return
                orders.wait(POLL_SECONDS)
        yield True


def main() -> int:
    """Entry point of the process."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    os.environ.update(_ENVIRONMENT)
    with contextlib.suppress(OSError):
        os.nice(5)  # trials come first
    folder, orders = Path(sys.argv[1]), Orders()
    uri = login_to_environment(os.environ["TKD_TRACKING_URI"])
    with exclusive(folder, orders) as alone:
        if not alone:
            return 3
        with contextlib.closing(Drain(uri, folder)) as drain:
            return work(drain, orders)


if __name__ == "__main__":
    sys.exit(main())
