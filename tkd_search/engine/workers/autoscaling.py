"""Pure decision over slots and cluster: which worker groups leave their machine, end or start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tkd_search.engine.workers.cluster_state import ClusterState
from tkd_search.engine.workers.slot import SlotState

DRAIN_SECONDS = 15.0
"""Seconds before a machine goes at which its job is interrupted at once, in the middle of an epoch."""

YIELD_AFTER_CHECKS = 3
"""Checks in a row at which another search must wait for resources before a slot is yielded to it."""


@dataclass(frozen=True)
class Action:
    """One change to the pool.

    Attributes:
        kind: ``lost``: the slot's machine is gone. ``vacate``: its job is interrupted after the current
            epoch, ``vacate_now``: at once. ``retire``: the slot ends after its trial. ``start``: one more
            slot.
        slot: name of the slot; empty for ``start``.
    """

    kind: Literal["lost", "vacate", "vacate_now", "retire", "start"]
    slot: str = ""


def decide(
    slots: Mapping[str, SlotState],
    cluster: ClusterState,
    *,
    job: str,
    limit: int,
    free_groups: int,
    checks_waiting: int,
) -> tuple[Action, ...]:
    """Return the changes that are due.

    Machines that are gone or about to go come first and alone: the next check sees the state after them.

    Args:
        slots: all slots of this search by name, also those that wait for resources.
        cluster: state of the Ray cluster.
        job: id of this search's Ray job.
        limit: most slots.
        free_groups: groups that fit into the free resources.
        checks_waiting: checks in a row, this one included, at which another search waited.
    """
    urgent = [
        action for name, slot in slots.items() if (action := _leave_machine(name, slot, cluster)) is not None
    ]
    if urgent:
        return tuple(urgent)
    staying = {name: slot for name, slot in slots.items() if not slot.retiring}
    if free_groups <= 0 and checks_waiting >= YIELD_AFTER_CHECKS and len(staying) == len(slots):
        last = _last_up(staying)
        return (Action("retire", last),) if last and exceeds_share(cluster, job) else ()
    if others_wait(cluster, job):
        return ()
    pending = sum(not slot.up for slot in staying.values())
    return (Action("start"),) * max(0, min(limit - len(slots), free_groups - pending))


def others_wait(cluster: ClusterState, job: str) -> bool:
    """Return whether another job's group waits for resources."""
    return any(count for other, count in cluster.waiting.items() if other != job)


def exceeds_share(cluster: ClusterState, job: str) -> bool:
    """Return whether one slot fewer here and one more for a waiting search makes their shares more equal.

    A search with one slot fewer than this one is no reason to yield: after yielding, the shares would be as
    unequal as before, and the slot would move back and forth.
    """
    own = cluster.groups.get(job, 0)
    return any(
        count and cluster.groups.get(other, 0) + 2 <= own
        for other, count in cluster.waiting.items()
        if other != job
    )


def _leave_machine(name: str, slot: SlotState, cluster: ClusterState) -> Action | None:
    if not slot.up:
        return None
    if not cluster.alive.issuperset(slot.nodes):
        return Action("lost", name)
    left = min((cluster.draining[node] for node in slot.nodes if node in cluster.draining), default=None)
    if left is None:
        return None
    if left <= DRAIN_SECONDS:
        return Action("vacate_now", name)
    return None if slot.retiring else Action("vacate", name)


def _last_up(slots: Mapping[str, SlotState]) -> str:
    return next((name for name in reversed(list(slots)) if slots[name].up), "")
