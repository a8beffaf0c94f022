"""A real ``mlflow server`` that dies, hangs and comes back while a search goes on."""

import signal
import time

import pytest

from tests.tracking.stores import Server, assert_exactly_once
from tests.tracking.synthetic import synthetic_search, synthetic_start
from tkd_search.tracking import open_tracker
from tkd_search.tracking.mlflow_reader import read_search
from tkd_search.tracking.status import read_status

pytestmark = pytest.mark.faults


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def record():
    return synthetic_search(trials=10, seed=3)


def search(tracker, record, folder, between):
    """Tell a search slowly; ``between`` (trial number → action) is done after some trials."""
    slowest = 0.0
    tracker.search_started(synthetic_start())
    tracker.big_model(record.big_model)
    for number, trial in enumerate(record.trials):
        started = time.perf_counter()
        tracker.trial_started(trial.trial_id, trial.student, trial.config, trial.bytes, trial.parameters)
        for epoch in trial.epochs:
            tracker.epoch(trial.trial_id, epoch)
        tracker.trial_ended(trial)
        tracker.progress(number + 1, {"hypervolume": record.history[number][1], "epochs_spent": number})
        slowest = max(slowest, time.perf_counter() - started)
        time.sleep(0.4)
        between.get(number, lambda: None)()
    tracker.search_ended(record, folder)
    return slowest


def test_a_server_killed_in_mid_search_misses_nothing_and_doubles_nothing(server, folder, record):
    tracker = open_tracker(server.uri, folder)
    search(tracker, record, folder, {2: server.kill, 7: server.start})
    assert not str(tracker.close(timeout=120))
    assert_exactly_once(server.uri, record)
    again = read_search(server.uri, tracker.ids().parent_run_id)
    assert [trial.epochs for trial in again.trials] == [trial.epochs for trial in record.trials]


def test_a_server_killed_again_and_again(server, folder, record):
    def bounce():
        server.kill()
        server.start()

    tracker = open_tracker(server.uri, folder)
    search(tracker, record, folder, dict.fromkeys((1, 3, 5, 7, 9), bounce))
    assert not str(tracker.close(timeout=120))
    assert_exactly_once(server.uri, record)


def test_a_server_that_hangs_is_stated_and_caught_up_with(server, folder, record):
    tracker = open_tracker(server.uri, folder)

    def hang():
        server.signal(signal.SIGSTOP)

    search(tracker, record, folder, {3: hang})
    left = tracker.close(timeout=4)
    assert left.events > 0
    server.signal(signal.SIGCONT)
    assert not str(open_tracker(server.uri, folder).close(timeout=120))
    assert_exactly_once(server.uri, record)


def test_a_server_that_comes_up_after_the_search(server, folder, record):
    server.kill()
    tracker = open_tracker(server.uri, folder)
    search(tracker, record, folder, {})
    left = tracker.close(timeout=5)
    assert left.events > 0
    assert read_status(folder / "tracking").error
    server.start()
    assert not str(open_tracker(server.uri, folder).close(timeout=120))
    assert_exactly_once(server.uri, record)
    assert not read_status(folder / "tracking").error
