"""Records of the job queue: worker groups, slots, leases and the errors of lost ones."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GroupId:
    """One start of a slot's worker group.

    Attributes:
        slot: name of the slot.
        incarnation: differs for every start of a group, so that requests of a dead group are recognised.
    """

    slot: str
    incarnation: str


@dataclass(frozen=True)
class WorkerGroup:
    """A worker group that is up.

    Attributes:
        id: its slot and incarnation.
        pid: process id of rank 0.
        nodes: ids of the nodes of its workers.
        actor: Ray handle of rank 0, to kill it.
        placement_group: Ray's placement group that holds its resources.
    """

    id: GroupId
    pid: int = 0
    nodes: tuple[str, ...] = ()
    actor: Any = None
    placement_group: Any = None


@dataclass(frozen=True)
class Lease:
    """The right to post jobs to a slot until it is released or not renewed in time."""

    slot: str
    token: int


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """One slot, as the pool sees it.

    Attributes:
        nodes: ids of its group's nodes; empty before the group is up.
        pid: process id of its group's rank 0; 0 before the group is up.
        up: whether its group runs.
        retiring: whether it ends once it has no holder.
        holder: name of the lease's holder; None while the slot is free.
        busy: whether it has an unfinished job.
        silence: seconds since the last heartbeat of its job.
        placement_group: that of its group; None before the group is up.
    """

    nodes: tuple[str, ...] = ()
    pid: int = 0
    up: bool = False
    retiring: bool = False
    holder: str | None = None
    busy: bool = False
    silence: float = 0.0
    placement_group: Any = None


class LeaseLostError(Exception):
    """The caller no longer holds the slot: its lease expired, or the slot or the queue's actor ended."""


class StalledError(RuntimeError):
    """The group of a leased slot sent no heartbeat for longer than the limit; the lease is over.

    Attributes:
        group: the group that hangs.
    """

    def __init__(self, group: WorkerGroup, limit: float) -> None:
        super().__init__(f"worker group of {group.id.slot} made no progress for more than {limit:g} s")
        self.group = group


@dataclass
class Slot:
    """Mutable state of one slot inside the job queue.

    Attributes:
        group: the group that attached last.
        up: whether the group runs.
        retiring: whether the slot ends once it has no holder.
        vacating: whether the job ends after its current epoch because the machine is about to go.
        holder: name of the lease's holder.
        token: number of the current lease.
        renewed: time at which the lease was last renewed.
        job: the unfinished job.
        job_id: number of the job that was posted last.
        started_by: incarnation that started the job last.
        attempts: starts of the job in a row without progress.
        pushed: results pushed since the last start of the job.
        furthest: most epochs, rows or results that any start of the job has reached.
        heartbeat: time of the last sign of progress.
        results: results that the holder has not pulled yet.
    """

    group: WorkerGroup
    up: bool = True
    retiring: bool = False
    vacating: bool = False
    holder: str | None = None
    token: int = 0
    renewed: float = 0.0
    job: dict[str, Any] | None = None
    job_id: int = 0
    started_by: str = ""
    attempts: int = 0
    pushed: int = 0
    furthest: int = 0
    heartbeat: float = 0.0
    results: deque[dict[str, Any]] = field(default_factory=deque)

    def interrupt(self) -> None:
        """Supersede the job, and append ``interrupted`` to the results."""
        if self.job is not None:
            self.job = None
            self.results.append({"kind": "interrupted"})

    def free(self) -> None:
        """End the lease, its job and its results."""
        self.holder, self.job = None, None
        self.results.clear()
