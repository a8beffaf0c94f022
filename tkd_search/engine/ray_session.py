"""Starts Ray on this machine or joins a running cluster."""

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tkd_search.engine.host_folders import provide_folders
from tkd_search.engine.host_limits import (
    allowed_cpus,
    core_share,
    host_limits,
    most_workers,
    raise_open_files,
)
from tkd_search.errors import UserError

_ATTEMPTS = 3
_HOST_AND_PORT = re.compile(r"(ray://)?(?P<host>[\w.-]+|\[[\da-fA-F:.]+\]):(?P<port>\d+)/?")
_CONNECT_SECONDS = 3.0


def local_nodes() -> list[dict[str, float]]:
    """Return this machine as one node: the cores that this process may use and the GPUs that torch sees."""
    import torch

    return [{"CPU": float(allowed_cpus()), "GPU": float(torch.cuda.device_count())}]


def host_workers(address: str | None) -> tuple[int | None, str]:
    """Return how many workers this machine's limits allow and what limits them; no limit for a cluster."""
    return (None, "") if resolve_address(address) or _joined() else most_workers(host_limits())


def live_nodes() -> list[Mapping[str, float]]:
    """Return the resources of each living node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def resolve_address(address: str | None) -> str | None:
    """Return the address that ``--address`` stands for; None where Ray is to be started on this machine.

    ``auto`` is the value of RAY_ADDRESS, or else the cluster of this node. Without ``--address`` it is
    ``auto`` on the head of a cluster that a file of ``clusters/`` started (TKD_CLUSTER_FILE names the file);
    elsewhere a new Ray is started, even where RAY_ADDRESS or an old address file names a cluster.
    """
    if address is None and Path(os.environ.get("TKD_CLUSTER_FILE", "")).is_file():
        address = "auto"
    if address in (None, "local"):
        return None
    if address == "auto":
        return os.environ.get("RAY_ADDRESS") or "auto"
    return address


def check_address(address: str | None) -> None:
    """Check that a port is open at ``host:port`` or ``ray://host:port``: Ray would wait for minutes.

    Also checks the value of RAY_ADDRESS where the address is ``auto``.

    Raises:
        UserError: the connection fails.
    """
    target = resolve_address(address)
    plain = _HOST_AND_PORT.fullmatch(target or "")
    if plain is None or _joined():
        return
    try:
        socket.create_connection((plain["host"].strip("[]"), int(plain["port"])), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the last two: invalid port, invalid host name
        raise _no_ray(address, f"no listener at {target} ({error})") from error


def _joined() -> bool:
    """Return whether this process is connected to Ray already, by a notebook or an earlier search."""
    quiet_environment()
    import ray

    return bool(ray.is_initialized())


def _no_ray(address: str | None, found: str) -> UserError:
    return UserError(
        f"--address {address}",
        found,
        "local, auto, or the address of a running cluster",
        "start one with `ray up clusters/….yaml` or `ray start --head`, or omit --address",
    )


def _not_started(error: Exception) -> UserError:
    return UserError(
        "Ray",
        f"it does not start on this machine ({type(error).__name__}: {error})",
        "a machine on which Ray starts",
        "python -m tkd_search doctor checks folders, memory and versions",
    )


@contextmanager
def ray_session(address: str | None) -> Iterator[str]:
    """Connect to Ray for the length of a ``with`` block; yields one line that describes the connection.

    A connection that this process has already is used, whatever the address, and kept.

    Raises:
        UserError: no Ray answers at the address, the address is invalid, or Ray does not start here.
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
    except Exception as error:  # Ray raises whatever its parts raise
        raise (
            _not_started(error) if target is None else _no_ray(address, f"no Ray there ({error})")
        ) from error
    try:
        yield f"joined Ray at {target}" if target else f"own Ray on this machine{_slowness()}"
    finally:
        ray.shutdown()


def _slowness() -> str:
    """Return a warning where this process has less than one core; '' elsewhere."""
    share = core_share()
    return "" if share >= 1 else f", which has only {share:g} of a core and is slow"


def _start_ray() -> None:
    """Start Ray on this machine; up to three attempts, since Ray waits 30 seconds only on a busy machine.

    Raises:
        RuntimeError: every attempt timed out.
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
        except Exception as error:  # Ray raises a plain Exception
            if "timed out during startup" not in str(error):
                raise
            if attempt == _ATTEMPTS - 1:
                raise RuntimeError(f"tried {_ATTEMPTS} times; {error}") from error


def quiet_environment() -> None:
    """Set Ray's options and folders, silence its output; before Ray is imported, since it reads them then."""
    provide_folders()
    raise_open_files()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # The pool checks the machines itself; Ray's watcher would be one more process for every slot.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Groups, controllers and Trainables start together, and Ray warns of more than four times the cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    warnings.filterwarnings("ignore", module="ray")
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # At the end it lists trials "that did not complete" although they were started again.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
