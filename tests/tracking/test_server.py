"""A real ``mlflow server`` that dies, hangs and comes back while a search goes on."""

import shutil
import signal
from functools import partial

import pytest
from mlflow import MlflowClient

from tests.tracking.stores import Server, assert_exactly_once, wait_until
from tests.tracking.synthetic import synthetic_search, tell_all
from tkd_search.tracking import open_tracker
from tkd_search.tracking.mlflow.reader import read_search
from tkd_search.tracking.mlflow.writer_status import read_status

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
PATIENCE = 600  # for a busy machine; a tracker that has delivered everything closes at once


@pytest.fixture
def server(tmp_path, empty_database):
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server" / "server.db")
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def record():
    return synthetic_search(trials=10, seed=3)


def run_of(server, trial_id):
    """Whether the store has begun with a trial."""
    client = MlflowClient(server.uri, server.uri)
    there = client.get_experiment_by_name("tkd_search/digits")
    found = f"tags.`tkd.trial_id` = '{trial_id}'"
    return there is not None and client.search_runs([there.experiment_id], found)


def test_a_server_killed_in_mid_search_misses_nothing_and_doubles_nothing(server, folder, record):
    tracker = open_tracker(server.uri, folder)

    def go():
        wait_until(lambda: run_of(server, record.trials[1].trial_id))
        server.kill()

    def come():
        wait_until(lambda: read_status(tracker.folder).error)
        assert "does not answer" in read_status(tracker.folder).error
        server.start()

    tell_all(tracker, record, folder, between={2: go, 7: come})
    assert not str(tracker.close(PATIENCE))
    assert_exactly_once(server.uri, record)
    again = read_search(server.uri, tracker.ids().parent_run_id)
    assert [trial.epochs for trial in again.trials] == [trial.epochs for trial in record.trials]


def test_a_server_killed_again_and_again(server, folder, record):
    """Each time with a batch half written, at last the one with models and pictures."""
    tracker = open_tracker(server.uri, folder)

    def bounce(reached):
        wait_until(reached)
        server.kill()
        server.start()

    def half_written(number):
        return partial(bounce, lambda: run_of(server, record.trials[number - 1].trial_id))

    tell_all(tracker, record, folder, between={number: half_written(number) for number in (1, 9)})
    bounce(lambda: MlflowClient(server.uri, server.uri).search_registered_models())
    assert not str(tracker.close(PATIENCE))
    assert_exactly_once(server.uri, record)


def test_a_server_that_hangs_is_stated_and_caught_up_with(server, folder, record):
    tracker = open_tracker(server.uri, folder)

    def hang():
        server.signal(signal.SIGSTOP)

    tell_all(tracker, record, folder, between={3: hang})
    left = tracker.close(timeout=4)
    assert left.events > 0
    server.signal(signal.SIGCONT)
    assert not str(open_tracker(server.uri, folder).close(PATIENCE))
    assert_exactly_once(server.uri, record)


def test_a_server_that_comes_up_after_the_search(server, folder, record):
    server.kill()
    tracker = open_tracker(server.uri, folder)
    tell_all(tracker, record, folder)
    wait_until(lambda: read_status(tracker.folder).error)
    left = tracker.close(timeout=5)
    assert left.events > 0
    server.start()
    assert not str(open_tracker(server.uri, folder).close(PATIENCE))
    assert_exactly_once(server.uri, record)
    assert not read_status(tracker.folder).error
