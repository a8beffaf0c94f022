"""The kinds of faults: which process of a search a signal goes to."""

import contextlib
import random
import signal
import time
from collections.abc import Callable

import psutil

from tests.faults.searched import PATIENCE, FaultySearch

STOPPED_SECONDS = 20.0
"""How long a worker is stopped: four heartbeats, and twice what a lease lasts without one."""

SERVER_SECONDS = 5.0
"""How long a killed server is away."""


def processes(search: FaultySearch, title: str) -> list[psutil.Process]:
    """Return the descendants of the driver whose command line has ``title``."""
    found = []
    for process in search.driver.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def killed(title: str) -> Callable[[FaultySearch, random.Random], bool]:
    """Return a fault: SIGKILL for one process with this title."""

    def strike(search: FaultySearch, draw: random.Random) -> bool:
        found = processes(search, title)
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                draw.choice(found).kill()
        return bool(found)

    return strike


def sent_to_driver(number: signal.Signals) -> Callable[[FaultySearch, random.Random], bool]:
    """Return a fault: a signal for the driver; SIGKILL also for its Ray, as a machine that loses power."""

    def strike(search: FaultySearch, draw: random.Random) -> bool:
        driver = search.driver
        rest = driver.children(recursive=True) if number == signal.SIGKILL and draw.random() < 0.5 else []
        driver.send_signal(number)
        for process in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return True

    return strike


def stop_worker(search: FaultySearch, draw: random.Random) -> bool:
    """SIGSTOP for a worker, SIGCONT when its heartbeats have been missed."""
    found = processes(search, "ray::RayTrainWorker")
    if not found:
        return False
    worker = draw.choice(found)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.suspend()
        time.sleep(STOPPED_SECONDS)
        worker.resume()
    return True


def kill_server(search: FaultySearch, draw: random.Random) -> bool:
    """SIGKILL for the MLflow server, which comes back later."""
    search.server.kill()
    time.sleep(SERVER_SECONDS)
    search.server.start()
    return True


KINDS: dict[str, Callable[[FaultySearch, random.Random], bool]] = {
    "worker": killed("ray::RayTrainWorker"),
    "trainable": killed("ray::WorkerGroupTrainable"),
    "job queue": killed("ray::QueueActor"),
    "train controller": killed("ray::TrainController"),
    "mlflow writer": killed("tkd_search.tracking.mlflow.writer"),
    "mlflow server": kill_server,
    "stopped worker": stop_worker,
    "driver": sent_to_driver(signal.SIGKILL),
    "driver SIGTERM": sent_to_driver(signal.SIGTERM),
    "driver SIGINT": sent_to_driver(signal.SIGINT),
    "gcs": killed("gcs/gcs_server"),
    "node": killed("raylet/raylet"),
}
"""By name: a function that does it and returns whether there was such a process."""


def strike(search: FaultySearch, kind: str, draw: random.Random) -> float | None:
    """Do a fault at a random moment; return the seconds until the search's next event, None at its end."""
    deadline = time.monotonic() + PATIENCE  # a driver waits a minute for a dead Ray, then another starts
    time.sleep(draw.uniform(0, 3))
    while not search.ended():
        with contextlib.suppress(psutil.NoSuchProcess):  # the driver ended meanwhile
            if KINDS[kind](search, draw):
                began = time.monotonic()
                return time.monotonic() - began if search.wait_for_events(1) else None
        assert time.monotonic() < deadline, f"no process to kill: {kind}"
        time.sleep(0.2)
    return None
