"""Joining or starting Ray, quietly and never by accident."""

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tkd_search.errors import UserError

_ATTEMPTS = 3
_HOST_AND_PORT = re.compile(r"(ray://)?(?P<host>[\w.-]+|\[[\da-fA-F:.]+\]):(?P<port>\d+)/?")
_CONNECT_SECONDS = 3.0


def local_nodes() -> list[dict[str, float]]:
    """This machine as one node; cores this process may use, GPUs as torch sees them."""
    import torch

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [{"CPU": float(cpus or 1), "GPU": float(torch.cuda.device_count())}]


def live_nodes() -> list[Mapping[str, float]]:
    """The nodes of the Ray cluster we are connected to."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def resolve_address(address: str | None) -> str | None:
    """What ``--address`` means: None for an own Ray on this machine, else the address to join.

    ``auto`` joins what RAY_ADDRESS names or the cluster of this node. Nothing is joined merely because
    an old address file names it: where nothing is said and RAY_ADDRESS is unset, Ray is started here.
    """
    if address in (None, "local"):
        return None
    if address == "auto":
        return os.environ.get("RAY_ADDRESS") or "auto"
    return address


def check_address(address: str | None) -> None:
    """Refuse ``host:port`` and ``ray://host:port`` where nobody listens: Ray would wait for minutes.

    Also where ``auto`` means one of these, by RAY_ADDRESS.

    Raises:
        UserError: nothing takes a connection there.
    """
    target = resolve_address(address)
    plain = _HOST_AND_PORT.fullmatch(target or "")
    if plain is None or _joined():
        return
    try:
        socket.create_connection((plain["host"].strip("[]"), int(plain["port"])), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the last two: no such port, no name of a host
        raise _no_ray(address, f"nobody who listens at {target} ({error})") from error


def _joined() -> bool:
    """Whether this process has joined a Ray already: a notebook's own, or that of an earlier search."""
    quiet_environment()
    import ray

    return bool(ray.is_initialized())


def _no_ray(address: str | None, found: str) -> UserError:
    return UserError(
        f"--address {address}",
        found,
        "local, auto, or the address of a running cluster",
        "start one with `ray up clusters/….yaml` or `ray start --head`, or leave --address away",
    )


@contextmanager
def ray_session(address: str | None) -> Iterator[str]:
    """Ray for the length of a ``with`` block; yields a line that says which.

    A Ray that this process has joined already is used, whatever the address, and left running.

    Raises:
        UserError: nothing answers at the address, or it is none.
    """
    if _joined():
        yield "the Ray of this process"
        return
    import ray

    check_address(address)
    target = resolve_address(address)
    try:
        if target is None:
            _start_ray()
        else:
            ray.init(address=target, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:  # ValueError: it is no address
        raise _no_ray(address, f"no Ray there ({error})") from error
    try:
        yield f"joined Ray at {target}" if target else "own Ray on this machine"
    finally:
        ray.shutdown()


def _start_ray() -> None:
    """An own Ray on this machine; tried again where that was too busy, since Ray waits for 30 seconds alone.

    Raises:
        RuntimeError: it was too busy every time.
    """
    import ray

    for attempt in range(_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=int(local_nodes()[0]["CPU"]),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            return
        except Exception as error:  # Ray raises just that
            if "timed out during startup" not in str(error):
                raise
            if attempt == _ATTEMPTS - 1:
                raise RuntimeError(f"tried {_ATTEMPTS} times; {error}") from error


def quiet_environment() -> None:
    """Keep Ray's own noise from the user; set before Ray is imported, since it reads them then."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # The pool looks at the machines itself; Ray's watcher would be one more process for every slot.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Groups, controllers and Trainables start together, and Ray warns when that exceeds four times the cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    warnings.filterwarnings("ignore", module="ray")
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
