"""What a cluster file may launch at most: arithmetic only, nothing is asked of a provider."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tkd_search.cluster.cluster_file import NodeType, read_cluster_file
from tkd_search.errors import UserError


@dataclass(frozen=True)
class ClusterLimits:
    """The nodes that may exist at once: the head, and at most ``max_workers`` of the workers' types."""

    head: NodeType
    workers: tuple[NodeType, ...]
    max_workers: int

    def total(self, resource: str) -> float:
        """The most of a resource (``"CPU"``, ``"GPU"``) that the cluster may have."""
        amounts = [
            amount
            for node in self.workers
            for amount in [node.resources.get(resource, 0.0)] * min(node.max_count, self.max_workers)
        ]
        return self.head.resources.get(resource, 0.0) + sum(sorted(amounts, reverse=True)[: self.max_workers])

    def copies(self, bundle: Mapping[str, float]) -> int:
        """How many bundles fit at once, each inside one node.

        Args:
            bundle: resource → amount, such as ``{"CPU": 1, "GPU": 0.25}``; zero amounts ask nothing.

        Raises:
            ValueError: where the bundle asks nothing at all.
        """
        counts = [
            _copies_in(node.resources, bundle)
            for node in self.workers
            for _ in range(min(node.max_count, self.max_workers))
        ]
        return _copies_in(self.head.resources, bundle) + sum(sorted(counts, reverse=True)[: self.max_workers])

    def fits(self, bundle: Mapping[str, float]) -> bool:
        """Whether at least one such bundle fits in one node."""
        return self.copies(bundle) > 0

    def nodes(self) -> tuple[Mapping[str, float], ...]:
        """The resources of every node of the largest cluster: the head, then workers, most GPUs first."""
        workers = [
            node.resources for node in self.workers for _ in range(min(node.max_count, self.max_workers))
        ]
        workers.sort(key=lambda r: (r.get("GPU", 0.0), r.get("CPU", 0.0)), reverse=True)
        return (self.head.resources, *workers[: self.max_workers])

    def describe(self) -> str:
        """One line for messages: the head and the workers with their resources."""
        parts = [f"head {_resources_text(self.head)}"]
        parts += [
            f"≤ {min(node.max_count, self.max_workers)} × {node.name} {_resources_text(node)}"
            for node in self.workers
        ]
        return f"{', '.join(parts)}; at most {self.max_workers} workers in all"


def max_cluster_resources(cluster_yaml: Path) -> ClusterLimits | None:
    """What the cluster may grow to.

    Returns:
        None where the file does not tell: provider ``local`` without ``metadata.host_resources`` (Ray finds
        them on the hosts, so the live cluster has to be asked), or an instance type that no table knows.

    Raises:
        UserError: where the file cannot be read.
    """
    file = read_cluster_file(cluster_yaml)
    if not file.workers or any(not node.resources for node in (file.head, *file.workers)):
        return None
    return ClusterLimits(file.head, file.workers, file.max_workers)


def max_cluster_nodes(cluster_yaml: Path) -> tuple[Mapping[str, float], ...]:
    """The resources of every node that the cluster file may launch, head first.

    Raises:
        UserError: where the file cannot be read or does not tell.
    """
    limits = max_cluster_resources(cluster_yaml)
    if limits is None:
        raise UserError(
            str(cluster_yaml),
            "nodes whose resources are known only once Ray runs on them",
            "node types with resources; for hosts of your own, metadata.host_resources: {CPU: …, GPU: …}",
            "add it, or start the cluster and plan there: ray attach, then run --dry-run --address auto",
        )
    return limits.nodes()


def launchable_nodes() -> tuple[Mapping[str, float], ...] | None:
    """On a cluster's head: what the cluster may grow to, from the file that ``TKD_CLUSTER_FILE`` names.

    Returns:
        None where this is no head, or the file does not tell; then the live nodes are all there is.
    """
    path = os.environ.get("TKD_CLUSTER_FILE", "")
    if not path or not Path(path).is_file():
        return None
    limits = max_cluster_resources(Path(path))
    return None if limits is None else limits.nodes()


def _copies_in(resources: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    wanted = {name: amount for name, amount in bundle.items() if amount > 0}
    if not wanted:
        raise ValueError("a bundle that asks nothing fits any number of times")
    # A hundredth of Ray's own granularity (1e-4), so that 4 × 0.25 is 1 in spite of rounding.
    return min(int(resources.get(name, 0.0) / amount + 1e-6) for name, amount in wanted.items())


def _resources_text(node: NodeType) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in sorted(node.resources.items())) + "}"
