from contextlib import ExitStack

import pytest
from hypothesis import settings

from tests.tracking.conftest import empty_database  # noqa: F401
from tests.tracking.synthetic import synthetic_search, tell_all
from tkd_search.engine.run_dir.run_lock import run_lock
from tkd_search.results.summary import write_summary
from tkd_search.tracking import MlflowTracker, Tracker

settings.register_profile("untimed", deadline=None)  # a loaded machine is no failure
settings.load_profile("untimed")


@pytest.fixture
def output(tmp_path, monkeypatch):
    """A working directory with ``runs/digits``: a synthetic finished search, its files and event log."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "digits", synthetic_search())
    return tmp_path / "runs"


def make_run(folder, record, logged=True, tracked=True):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: {record.name}\n")
    for trial in record.trials:
        place = folder / "trials" / trial.trial_id
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"w" * 1000)
        if trial.state == "stopped":
            (place / "checkpoint").mkdir()
            (place / "checkpoint" / "checkpoint.pt").write_bytes(b"c" * 3000)
    for member in record.front:
        place = folder / member.path
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"w" * 1000)
    write_summary(record, folder)
    if logged:
        tracker = Quiet("sqlite:///mlflow.db", folder) if tracked else Tracker(folder)
        tell_all(tracker, record, folder)
    return folder


class Quiet(MlflowTracker):
    """Writes the event log and starts no writer."""

    def _watch(self, now):
        pass


@pytest.fixture
def hold():
    """Hold a run's lock as a live driver does."""
    with ExitStack() as locks:
        yield lambda folder: locks.enter_context(run_lock(folder))
