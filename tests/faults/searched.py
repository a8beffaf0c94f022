"""A small search in a process of its own, which is started again until it finishes, beside a real server."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.tracking.stores import Server, assert_exactly_once
from tkd_search.optimize.study import earlier_trials
from tkd_search.results.summary import read_record
from tkd_search.tracking.search_log import read_search_log

PATIENCE = 600.0
"""Seconds without an event after which a search counts as stuck. A driver waits 60 for a dead Ray."""

EPOCHS = 3
SETTINGS = [
    f"training.epochs={EPOCHS}",
    "training.batch_size=64",
    "student.width={float: [0.1, 0.3], log: true}",
    "student.format={choice: [fp32, int8]}",
    "big_model.epochs=3",
    "data.views=2",
]


class FaultySearch:
    """A search on the digits that suffers faults.

    Args:
        place: empty folder, for the run and the server's store.
        trials: number of trials.
        seed: seed of the search.
    """

    def __init__(self, place: Path, *, trials: int, seed: int) -> None:
        self.place, self.trials, self.drivers = place, trials, 0
        (place / "server").mkdir()
        self.server = Server(place / "server")
        settings = [*SETTINGS, f"search.trials={trials}", f"seed={seed}", f"tracking.uri={self.server.uri}"]
        self._command = [sys.executable, "-m", "tkd_search.run", "--name", "faulty"]
        self._command += [f"--set={setting}" for setting in settings]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.place / "runs" / "faulty"

    @property
    def driver(self) -> psutil.Process:
        """The running driver's process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start the server and the search."""
        self.server.start()
        self._start_driver()

    def close(self) -> None:
        """End all processes."""
        if self._process is not None and self._process.poll() is None:
            for process in [*self.driver.children(recursive=True), self.driver]:
                process.kill()
            self._process.wait()
        self.server.kill()

    def events(self) -> int:
        """Number of epochs and ended trials that the event log has."""
        log = self.folder / "events" / "events.jsonl"
        text = log.read_text() if log.exists() else ""
        return text.count('"kind":"epoch"') + text.count('"kind":"trial_ended"')

    @property
    def finished(self) -> bool:
        """Whether the search ended with its whole budget."""
        summary = self.folder / "summary.json"
        return summary.exists() and json.loads(summary.read_text())["status"] == "complete"

    def wait_for_events(self, count: int) -> bool:
        """Wait until the log has grown by ``count`` events, starting drivers as needed; False at the end.

        Raises:
            AssertionError: no event came for ``PATIENCE`` seconds, or drivers fail one after the other.
        """
        wanted, seen, last, drivers = self.events() + count, self.events(), time.monotonic(), self.drivers
        while self.events() < wanted:
            if self.ended():
                return False
            if self.events() > seen:
                seen, last, drivers = self.events(), time.monotonic(), self.drivers
            assert time.monotonic() < last + PATIENCE, f"stuck: {self.output()}"
            assert self.drivers < drivers + 3, f"drivers fail: {self.output()}"
            time.sleep(0.1)
        return True

    def ended(self) -> bool:
        """Whether the search finished; a driver that ended before is followed by another."""
        assert self._process is not None
        if self._process.poll() is None:
            return False
        if self.finished:
            return True
        self._start_driver()
        return False

    def output(self) -> str:
        """The last lines that the drivers printed."""
        return (self.place / "output").read_text()[-3000:]

    def report(self) -> None:
        """Run ``report``, which delivers to the server what an earlier command could not."""
        command = [sys.executable, "-m", "tkd_search", "report", str(self.folder)]
        subprocess.run(command, cwd=self.place, check=True, capture_output=True)

    def _start_driver(self) -> None:
        self.drivers += 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        with (self.place / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.place,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def losses(search: FaultySearch) -> tuple[int, int]:
    """Return how many trials and epochs are missing from a finished search, and how many there are twice.

    Checks the event log, the study, the summary and the server's store.

    Raises:
        AssertionError: a trial failed or still runs, or the store lacks or doubles something.
    """
    record = read_record(search.folder)
    log = (search.folder / "events" / "events.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    of_epochs = [e["data"] for e in entries if e["kind"] == "epoch"]
    epochs = Counter((data["trial_id"], data["record"]["epoch"]) for data in of_epochs)
    ends = Counter(e["data"]["trial_id"] for e in entries if e["kind"] == "trial_ended")
    missing = search.trials - len(record.trials)
    for trial in record.trials:
        assert trial.state in ("complete", "stopped"), (trial.trial_id, trial.state, trial.reason)
        reached = [epoch.epoch for epoch in trial.epochs]
        missing += trial.state == "complete" and reached != list(range(1, EPOCHS + 1))
        missing += trial.trial_id not in ends
    told = earlier_trials(search.folder / "study.journal", "faulty")
    assert {trial.state for trial in told} <= {"complete", "stopped"}
    missing += search.trials - len(told)
    assert read_search_log(search.folder).trials.keys() == {trial.trial_id for trial in record.trials}
    assert_exactly_once(search.server.uri, record, full=False)
    twice = sum(count - 1 for counts in (epochs, ends) for count in counts.values())
    return missing, twice
