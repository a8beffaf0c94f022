"""The largest cluster that a cluster file allows, computed from the file alone."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tkd_search.cluster.cluster_file import ClusterFile, NodeType, read_cluster_file
from tkd_search.errors import UserError


def max_cluster_nodes(cluster_yaml: Path) -> tuple[Mapping[str, float], ...]:
    """Return the resources of every node that the cluster file may launch, head first.

    Raises:
        UserError: the file cannot be read, or does not state the resources of its nodes: provider ``local``
            without ``metadata.host_resources``, or an instance type that no table knows.
    """
    file = read_cluster_file(cluster_yaml)
    if not _resources_known(file):
        raise UserError(
            str(cluster_yaml),
            "node types without resources (Ray detects these only on the running nodes)",
            "node types with resources; for your own hosts, metadata.host_resources: {CPU: …, GPU: …}",
            "add them, or start the cluster and plan there: ray attach, then run --dry-run --address auto",
        )
    return tuple(node.resources for node in _largest_cluster(file))


def launchable_nodes() -> tuple[Mapping[str, float], ...] | None:
    """Return the same for the cluster whose head this is (``TKD_CLUSTER_FILE`` names its file).

    Returns:
        None where this is not a head or the file does not state the resources; use the live nodes then.
    """
    path = os.environ.get("TKD_CLUSTER_FILE", "")
    if not path or not Path(path).is_file():
        return None
    file = read_cluster_file(Path(path))
    return tuple(node.resources for node in _largest_cluster(file)) if _resources_known(file) else None


def node_hours(cluster_yaml: Path, hours: float) -> str:
    """Return the nodes of the largest cluster and their time.

    The text reads ``1 × m6i.xlarge + 4 × g5.xlarge (spot) for 2.3 h``; the user multiplies by his prices.

    Args:
        cluster_yaml: the cluster file.
        hours: expected duration in hours, ≥ 0.

    Raises:
        UserError: the file cannot be read.
    """
    nodes = _largest_cluster(read_cluster_file(cluster_yaml))
    counts = Counter((node.instance or node.name) + (" (spot)" if node.spot else "") for node in nodes)
    duration = f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"
    return f"{' + '.join(f'{count} × {kind}' for kind, count in counts.items())} for {duration} h"


def _largest_cluster(file: ClusterFile) -> tuple[NodeType, ...]:
    """Return the head, then at most ``max_workers`` workers, those with most GPUs and then CPUs first."""
    workers = [node for node in file.workers for _ in range(min(node.max_count, file.max_workers))]
    workers.sort(key=lambda n: (n.resources.get("GPU", 0.0), n.resources.get("CPU", 0.0)), reverse=True)
    return (file.head, *workers[: file.max_workers])


def _resources_known(file: ClusterFile) -> bool:
    return bool(file.workers) and all(node.resources for node in (file.head, *file.workers))
