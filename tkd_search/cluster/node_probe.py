"""Looking at one node: can it write to the storage, how much room has it? Sent to every node as a task."""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node said of itself.

    Attributes:
        host: its name.
        gpus: names of the GPUs that torch sees.
        disk_free: free bytes where temporary files go.
        shared_memory: bytes of /dev/shm, Ray's object store; 0 where there is none.
        storage_error: why the storage cannot be written; '' where it can, or where none was asked for.
        python: version of the interpreter.
        torch: version of PyTorch.
    """

    host: str
    gpus: tuple[str, ...]
    disk_free: int
    shared_memory: int
    storage_error: str
    python: str
    torch: str


def probe_node(storage: str, folder: str) -> NodeReport:
    """Look at the node this runs on.

    Args:
        storage: URI or path to write to; '' for none.
        folder: folder whose disk is asked for room; where it is missing, the nearest parent.
    """
    import platform

    import torch

    from tkd_search.storage.object_store import write_error

    gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return NodeReport(
        host=socket.gethostname(),
        gpus=gpus,
        disk_free=disk_free(Path(folder)),
        shared_memory=shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
        storage_error=write_error(storage) if storage else "",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def disk_free(folder: Path) -> int:
    """Free bytes on the disk that holds a folder, or would if it were made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def probe_all_nodes(storage: str, folder: str) -> list[NodeReport]:
    """Ask every live node of the cluster that we are connected to.

    Raises:
        ray.exceptions.GetTimeoutError: a node does not answer within two minutes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(probe_node)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    pinned = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=one).remote(storage, folder) for one in pinned]
    reports: list[NodeReport] = ray.get(asked, timeout=120)
    return sorted(reports, key=lambda report: report.host)
