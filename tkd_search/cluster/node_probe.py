"""Measurements of a node for ``doctor``: GPUs, versions, free space, access to the storage."""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from tkd_search.errors import UserError


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Measurements of one node.

    Attributes:
        host: host name.
        gpus: names of the GPUs that PyTorch finds.
        disk_free: free bytes on the disk of the runs folder.
        shared_memory: bytes of /dev/shm, which holds Ray's object store; 0 if there is none.
        storage_error: reason why the storage cannot be written; '' if it can, or if none was given.
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
    """Measure the node on which this function runs.

    Args:
        storage: URI or path to test for writing; '' for none.
        folder: folder whose disk is measured; if it is missing, its nearest existing parent.
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
    """Return the free bytes on the disk of a folder, or of its nearest existing parent."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def probe_all_nodes(storage: str, folder: str, timeout: float = 120.0) -> list[NodeReport]:
    """Measure every live node of the cluster to which Ray is connected.

    Raises:
        UserError: a node does not answer within ``timeout`` seconds, or cannot run the probe.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(probe_node)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    tasks = [task.options(scheduling_strategy=strategy).remote(storage, folder) for strategy in strategies]
    ray.wait(tasks, num_returns=len(tasks), timeout=timeout)
    reports: list[NodeReport] = []
    for host, reference in zip(nodes.values(), tasks, strict=True):
        try:
            reports.append(ray.get(reference, timeout=0))
        except ray.exceptions.RayError as error:
            raise UserError(
                "Ray",
                f"node {host} does not answer ({type(error).__name__})",
                "nodes that run tasks with this Python and these packages",
                "ray status lists the nodes; their logs are in /tmp/ray/session_latest/logs",
            ) from error
    return sorted(reports, key=lambda report: report.host)
