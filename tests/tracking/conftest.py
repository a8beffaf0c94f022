import shutil

import pytest
from hypothesis import settings

from tests.tracking.synthetic import synthetic_search
from tkd_search.export.student_description import Preprocessing, StudentDescription, write_description
from tkd_search.models.model_settings import StudentSettings
from tkd_search.results.summary import write_summary
from tkd_search.tracking import MlflowTracker

settings.register_profile("untimed", deadline=None)  # a loaded machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A sqlite store with its tables: copying it saves each test the seconds that making them takes."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database, tmp_path):
    """The URI of a store of one's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def record():
    return synthetic_search(trials=8, seed=3)


@pytest.fixture
def folder(tmp_path, record):
    """The run's folder of ``record``, with a summary and a file or two per front member."""
    return run_folder(tmp_path / "runs" / record.name, record)


def run_folder(folder, record):
    for member in record.front:
        place = folder / member.path
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"weights of " + member.trial_id.encode())
        write_description(place, described(member))
    write_summary(record, folder)
    return folder


def described(member):
    return StudentDescription(
        name=member.student,
        trial_id=member.trial_id,
        architecture=StudentSettings(width=0.1),
        preprocessing=Preprocessing(channels=1, size=8, mean=(0.3,), std=(0.4,)),
        classes=tuple("0123456789"),
    )


@pytest.fixture
def still(monkeypatch):
    """Trackers start no writer on their own; the test drains in this process."""
    monkeypatch.setattr(MlflowTracker, "_watch", lambda self, now: None)
