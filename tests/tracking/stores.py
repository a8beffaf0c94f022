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

import pytest
from mlflow import MlflowClient

from tkd_search.tracking.mlflow.layout import metric_name
from tkd_search.tracking.mlflow.writer import Drain

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    # Eight more processes that import MLflow at every start, for jobs that nobody here asks for: restarting
    # such a server a few times keeps two cores busy for minutes.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}

SHIPPED = [
    "MLmodel",
    "conda.yaml",
    "model.safetensors",
    "python_env.yaml",
    "requirements.txt",
    "student.json",
]


def wait_until(condition, seconds=600):
    """Until something is so; the limit only keeps a broken test from waiting for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.05)


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


def stored(uri, experiment="tkd_search/digits"):
    """Everything of an experiment that could be missing or doubled.

    Returns a dictionary: (search, trial) → (number of such runs, points, artifacts), where points counts
    every (metric, step) and artifacts lists the files.
    """
    client = MlflowClient(uri, uri)
    there = client.get_experiment_by_name(experiment)
    found = {}
    for run in client.search_runs([there.experiment_id], max_results=1000):
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


def assert_exactly_once(uri, record, experiment="tkd_search/digits", full=True):
    """Every run, metric point and artifact of a search that was told whole is there, and once.

    ``full``: the figures and files are exactly those of a synthetic search.
    """
    found = stored(uri, experiment)
    front = {member.trial_id: member for member in record.front}
    assert {key for key in found if key[0] == record.name} == {
        (record.name, trial_id) for trial_id in ["", *(trial.trial_id for trial in record.trials)]
    }
    for trial in record.trials:
        runs, points, files = found[record.name, trial.trial_id]
        assert runs == 1
        assert points == expected_points(trial, front.get(trial.trial_id)), trial.trial_id
        shipped = [f"model/{name}" for name in SHIPPED] if trial.trial_id in front else []
        assert files == shipped if full else set(files) >= set(shipped)
    runs, points, files = found[record.name, ""]
    assert runs == 1
    assert set(points.values()) == {1}
    steps = {step for name, step in points if name == "hypervolume"}
    assert steps == set(range(1, len(record.trials) + 1))
    assert {"summary.json", "config.yaml", "constraints.txt"} <= set(files)
    client = MlflowClient(uri, uri)
    for trial_id in front:
        assert len(client.search_model_versions(f"name='{record.name}-{trial_id}'")) == 1


def expected_points(trial, member):
    """(metric, step) → 1 for all that a trial must have in the store."""
    points = Counter(("val_accuracy", epoch.epoch) for epoch in trial.epochs)
    points.update((metric_name(name), epoch.epoch) for epoch in trial.epochs for name in epoch.metrics)
    alone = ["bytes", "parameters", "ratio", "trial_seconds"]
    alone += [] if trial.latency is None else ["latency_ms"]
    if member is not None:
        alone += ["test_accuracy", "retention"]
        alone += [f"latency_ms.batch_{size}" for size in member.latency_ms]
    points.update((name, 0) for name in alone)
    return points


def drain_here(tracker):
    """Write what is spooled from within this process: what the writer process does, without its start."""
    drain = Drain(tracker.uri, tracker.folder)
    while drain.step() or drain.deliver():
        pass
    return drain
