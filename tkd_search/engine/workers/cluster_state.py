"""Queries Ray for node and placement-group state.

The only module that uses Ray's private state tables, which the pinned minor version keeps stable. Ray's
public interface shows a notice of preemption to the workers of one Train run only
(``ray.train.get_preemption_info``); the driver moves trials of all runs and reads the table behind it.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import ray


@dataclass(frozen=True, kw_only=True)
class ClusterState:
    """The cluster at one moment.

    Attributes:
        alive: ids of the nodes that are alive.
        draining: id of a node that is about to go → seconds left; infinite where no deadline is known.
        available: free resources of each node that is alive and not draining.
        groups: number of placed placement groups with cores or GPUs, by job id.
        waiting: number of such groups that wait for resources, by job id.
    """

    alive: frozenset[str]
    draining: Mapping[str, float] = field(default_factory=dict)
    available: tuple[Mapping[str, float], ...] = ()
    groups: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)


def own_job() -> str:
    """Return the id of this driver's Ray job."""
    return str(ray.get_runtime_context().get_job_id())


def driver_node_resource() -> str:
    """Return a resource that only the driver's node has, to place actors on that node."""
    own_node = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own_node)
    head = "node:__internal_head__"
    return head if head in resources else next(name for name in resources if name.startswith("node:"))


def cluster_state() -> ClusterState:
    """Query Ray for the state of the cluster."""
    from ray._private.state import available_resources_per_node, state

    now = time.time()
    draining = {
        node: max(0.0, deadline / 1000 - now) if deadline else float("inf")
        for node, deadline in (state.get_draining_nodes() or {}).items()
    }
    alive = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
    available = available_resources_per_node()
    groups, waiting = _placement_groups()
    return ClusterState(
        alive=alive,
        draining=draining,
        available=tuple(
            dict(free) for node, free in available.items() if node in alive and node not in draining
        ),
        groups=groups,
        waiting=waiting,
    )


def _placement_groups() -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Count placement groups by job: (placed, waiting). Ray's public table does not hold the job."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Data

    placed: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for encoded in state._connect_and_get_accessor().get_placement_group_table():
        group = Data.FromString(encoded)
        needs = [bundle.unit_resources for bundle in group.bundles]
        if not any(need.get("CPU", 0) or need.get("GPU", 0) for need in needs):
            continue
        job = group.creator_job_id.hex()
        if group.state in (Data.PENDING, Data.RESCHEDULING):
            waiting[job] += 1
        elif group.state in (Data.CREATED, Data.PREPARED):
            placed[job] += 1
    return placed, waiting


def end_train_runs() -> None:
    """Kill the controllers of this driver's Train runs, also those that wait for resources.

    A thread that is still in ``trainer.fit()`` when Ray is shut down makes Ray end the whole process.
    """
    from ray._private.state import actors
    from ray._private.worker import global_worker

    for actor_id, actor in actors(job_id=ray.JobID.from_hex(own_job()), actor_state_name="ALIVE").items():
        if "TrainController" in actor["ActorClassName"]:
            global_worker.core_worker.kill_actor(ray.ActorID.from_hex(actor_id), True)
