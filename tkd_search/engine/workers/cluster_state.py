"""What Ray knows of machines that come and go, read thinly by the driver; the only place that asks for it.

Ray's public interface shows a notice of preemption to the workers of a Train run alone
(``ray.train.get_preemption_info``); the driver, which must move trials of all runs, reads the same table.
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
        alive: ids of the nodes that live.
        draining: id of a node that is about to go → seconds it has left; infinite where it was not said.
        available: free resources of each node that lives and stays.
        groups: placement groups with cores or GPUs that are there, by job.
        waiting: such groups that wait for resources, by job.
    """

    alive: frozenset[str]
    draining: Mapping[str, float] = field(default_factory=dict)
    available: tuple[Mapping[str, float], ...] = ()
    groups: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)


def own_job() -> str:
    """The id of this driver's job."""
    return str(ray.get_runtime_context().get_job_id())


def driver_node_resource() -> str:
    """A resource that the driver's node alone has, for processes that belong beside the driver."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    head = "node:__internal_head__"
    return head if head in resources else next(name for name in resources if name.startswith("node:"))


def cluster_state() -> ClusterState:
    """Ask Ray."""
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
    """Placement groups by job: (there, waiting). Ray's public table leaves out whose they are."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Data

    there: Counter[str] = Counter()
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
            there[job] += 1
    return there, waiting


def end_train_runs() -> None:
    """Kill the controllers of this driver's Train runs: those that wait for resources cannot be told to end.

    A thread that is left in ``trainer.fit()`` when Ray is shut down makes Ray end the whole process.
    """
    from ray._private.state import actors
    from ray._private.worker import global_worker

    for actor_id, actor in actors(job_id=ray.JobID.from_hex(own_job()), actor_state_name="ALIVE").items():
        if "TrainController" in actor["ActorClassName"]:
            global_worker.core_worker.kill_actor(ray.ActorID.from_hex(actor_id), True)
