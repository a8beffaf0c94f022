"""Real tracking stores for tests, and what is in them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter

from mlflow import MlflowClient

from tkd_search.tracking.mlflow_writer import Drain

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """An ``mlflow server`` on a sqlite file, to be killed and started again."""

    def __init__(self, folder, port=None):
        self.folder, self.port = folder, port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"),
            *("--artifacts-destination", f"{self.folder}/artifacts"),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **QUIET}
            )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return self
            time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def kill(self):
        """SIGKILL for the whole process group (uvicorn has workers)."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def signal(self, number):
        os.killpg(self.process.pid, number)


def stored(uri, dataset="digits"):
    """Everything of an experiment that could be missing or doubled.

    Returns a dictionary: (search, trial) → (number of such runs, points, artifacts), where points counts
    every (metric, step) and artifacts lists the files.
    """
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(dataset)
    found = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        key = (run.data.tags.get("tkd.search"), run.data.tags.get("tkd.trial_id", ""))
        points = Counter(
            (name, point.step)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        )
        count = found[key][0] + 1 if key in found else 1
        found[key] = (count, points, artifacts(client, run.info.run_id))
    return found


def artifacts(client, run_id, path=None):
    files = []
    for one in client.list_artifacts(run_id, path):
        files += artifacts(client, run_id, one.path) if one.is_dir else [one.path]
    return sorted(files)


def assert_exactly_once(uri, record, dataset="digits"):
    """Every run, metric point and artifact of a search that was told whole is there, and once."""
    found = stored(uri, dataset)
    front = {member.trial_id for member in record.front}
    assert {key for key in found if key[0] == record.name} == {
        (record.name, trial_id) for trial_id in ["", *(trial.trial_id for trial in record.trials)]
    }
    for trial in record.trials:
        runs, points, files = found[record.name, trial.trial_id]
        names = {"val_accuracy"} | {name for epoch in trial.epochs for name in epoch.metrics}
        expected = Counter(
            (name, epoch.epoch)
            for epoch in trial.epochs
            for name in names
            if name == "val_accuracy" or name in epoch.metrics
        )
        alone = ["bytes", "parameters", "ratio", "trial_seconds"]
        if trial.trial_id in front:
            alone += ["test_accuracy", "retention", "latency_ms.batch_1", "latency_ms.batch_32"]
        expected.update((name, 0) for name in alone)
        assert runs == 1
        assert points == expected, trial.trial_id
        assert files == (["model/model.safetensors", "model/student.json"] if trial.trial_id in front else [])
    runs, points, files = found[record.name, ""]
    assert runs == 1
    assert set(points.values()) == {1}
    assert {step for name, step in points if name == "hypervolume"} == set(range(1, len(record.trials) + 1))
    assert {"summary.json", "config.yaml", "constraints.txt"} <= set(files)
    client = MlflowClient(uri, uri)
    for trial_id in front:
        assert len(client.search_model_versions(f"name='{record.name}-{trial_id}'")) == 1


def drain_here(tracker):
    """Write what is spooled from within this process: what the writer process does, without its start."""
    drain = Drain(tracker.uri, tracker.folder)
    while drain.step():
        pass
    return drain
