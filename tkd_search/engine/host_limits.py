"""Limits of this machine: whether a search runs on it, and how many trials at once.

A container or a laptop may offer all cores and far less of what the processes of a search need. Without a
check, Ray waits for processes that cannot start, or the kernel kills them.
"""

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from tkd_search.errors import UserError

_MOST_OPEN_FILES = 65_536


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """What a search may use of this machine; infinite where there is no limit.

    Attributes:
        memory: bytes of memory that are free, or that the container still allows.
        processes: processes and threads that this user, or the container, may still start.
        open_files: files that one process may open.
    """

    memory: float = math.inf
    processes: float = math.inf
    open_files: float = math.inf


@dataclass(frozen=True)
class Shortage:
    """A limit that is too low for a search with one trial at a time.

    Attributes:
        name: what is short.
        found: its amount.
        needed: the least amount.
        fix: what to do.
    """

    name: str
    found: str
    needed: str
    fix: str


@dataclass(frozen=True)
class _Need:
    """What a search needs of a limit: ``search`` once and ``group`` for every worker group.

    Measured with the digits on two cores; a group is a Ray Train run of one worker, with six processes.
    """

    name: str
    search: float
    group: float
    unit: str
    fix: str

    def text(self, amount: float) -> str:
        return f"{amount / 1e9:.1f} GB" if self.unit == "GB" else f"{amount:,.0f} {self.unit}"


_NEEDS = {
    "memory": _Need(
        "memory",
        1.5e9,
        1.4e9,
        "GB",
        "end other programs, or start the container with more memory (docker run --memory)",
    ),
    "processes": _Need(
        "processes",
        300,
        200,
        "processes and threads",
        "raise the limit: ulimit -u, docker run --pids-limit, or podPidsLimit of Kubernetes",
    ),
    "open_files": _Need(
        "open files",
        150,
        50,
        "open files of a process",
        "raise the limit: ulimit -n 4096, or docker run --ulimit nofile=65536",
    ),
}


def shortages(limits: HostLimits) -> list[Shortage]:
    """Return the limits that do not allow one worker group."""
    found = []
    for key, need in _NEEDS.items():
        amount, least = getattr(limits, key), need.search + need.group
        if amount < least:
            found.append(Shortage(need.name, need.text(amount), f"at least {need.text(least)}", need.fix))
    return found


def most_workers(limits: HostLimits) -> tuple[int | None, str]:
    """Return how many workers the limits allow, at least 1, and what limits them; None without a limit."""
    room = {
        need.name: (getattr(limits, key) - need.search) / need.group
        for key, need in _NEEDS.items()
        if getattr(limits, key) < math.inf
    }
    if not room:
        return None, ""
    scarce = min(room, key=lambda name: room[name])
    return max(1, math.floor(room[scarce])), scarce


def describe_limits(limits: HostLimits) -> str:
    """Return how many trials with one worker can run at once, and what limits them."""
    workers, scarce = most_workers(limits)
    cores = f"{core_share():g} cores"
    return cores if workers is None else f"{cores}; room for {workers} trials at once by {scarce}"


def check_host_limits() -> None:
    """Refuse a search that this machine cannot run.

    Raises:
        UserError: memory, processes or open files do not allow one trial.
    """
    for short in shortages(host_limits()):
        raise UserError(f"{short.name} of this machine", short.found, short.needed, short.fix)


def host_limits(root: Path = Path("/")) -> HostLimits:
    """Measure this machine and the container in which this process runs; ``root`` holds proc and sys."""
    return HostLimits(
        memory=min(float(psutil.virtual_memory().available), _container_memory(root)),
        processes=min(_user_processes(), _container_processes(root)),
        open_files=_number(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    )


def core_share(root: Path = Path("/")) -> float:
    """Return the cores that this process may use, by affinity and container quota; may be below 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [
        *(text.split() for (text,) in _group_files(root, "cpu", "cpu.max")),
        *_group_files(root, "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    ]
    shares = [_number(quota) / float(period) for quota, period in quotas]
    return min([affinity, *(share for share in shares if share < math.inf)])


def allowed_cpus(root: Path = Path("/")) -> int:
    """Return the cores that Ray may plan with: ``core_share`` rounded up, at least 1."""
    return max(1, math.ceil(core_share(root)))


def raise_open_files() -> None:
    """Raise this process's limit on open files, which its children inherit, as far as it may.

    The soft limit of macOS and of some shells is 256; Ray's own processes open hundreds with many groups.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = int(min(_number(hard), _MOST_OPEN_FILES))
    if _number(soft) < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _user_processes() -> float:
    """Return how many processes and threads this user may still start; root is not limited."""
    limit = _number(resource.getrlimit(resource.RLIMIT_NPROC)[0])
    if limit == math.inf or os.getuid() == 0:
        return math.inf
    threads = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        if process.info["uids"] and process.info["uids"].real == os.getuid():
            threads += process.info["num_threads"] or 1
    return limit - threads


def _container_processes(root: Path) -> float:
    limits = _group_files(root, "pids", "pids.max", "pids.current")
    return min((_number(most) - float(used) for most, used in limits), default=math.inf)


def _container_memory(root: Path) -> float:
    """Return the bytes that the container's limit leaves; file caches, which the kernel drops, are free."""
    left = [math.inf]
    for most, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for limit, usage, stat in _group_files(root, "memory", most, used, "memory.stat"):
            cached = dict(line.split() for line in stat.splitlines()).get(cache, 0)
            left.append(_number(limit) - float(usage) + float(cached))
    return min(left)


def _number(text: str | int) -> float:
    """Return a limit as a number; infinite where there is none (``max``, -1, or 2**60 and more)."""
    value = math.inf if text == "max" else float(text)
    return math.inf if value < 0 or value >= 2**60 else value


def _group_files(root: Path, controller: str, *files: str) -> list[list[str]]:
    """Return the files' contents in this process's control group and in all above it that have them.

    A container shows its own group as the top of the tree, whatever path the kernel gives.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        here = top / path.lstrip("/")
        for place in (place for place in (here, *here.parents) if place.is_relative_to(top)):
            if all((place / file).is_file() for file in files):
                found.append([(place / file).read_text(encoding="utf-8").strip() for file in files])
    return found
