"""Which worker groups make way, end or start: a pure decision over the state of slots and cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tkd_search.engine.workers.cluster_state import ClusterState

LAST_SECONDS = 15.0
"""Before a machine goes: an epoch that has not ended by then is given up."""

PATIENCE = 3
"""Looks in a row at which another search must be seen waiting before a slot is yielded to it."""


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """One slot as the mailboxes see it.

    Attributes:
        nodes: of its group; empty while none is up, or where it is not known.
        up: whether its group runs.
        retiring: whether it was told to end.
    """

    nodes: tuple[str, ...] = ()
    up: bool = False
    retiring: bool = False


@dataclass(frozen=True)
class Move:
    """One thing to do.

    ``lost``: the slot's machine has gone. ``vacate``: its trial makes way after the epoch at hand;
    ``vacate_now``: at once. ``retire``: the slot ends after its trial. ``start``: one more slot.
    """

    kind: Literal["lost", "vacate", "vacate_now", "retire", "start"]
    slot: str = ""


def decide(
    slots: Mapping[str, SlotState],
    cluster: ClusterState,
    *,
    job: str,
    limit: int,
    fitting: int,
    seen_waiting: int,
) -> tuple[Move, ...]:
    """What to do now.

    Args:
        slots: all slots of this search, by name, those that wait for resources among them.
        cluster: what Ray knows.
        job: this search's job.
        limit: most slots.
        fitting: groups that the free resources would hold.
        seen_waiting: looks in a row, this one among them, at which another search waited.
    """
    moves = [move for name, slot in slots.items() if (move := _of_machine(name, slot, cluster)) is not None]
    if moves:
        return tuple(moves)  # first those; the next look sees what they have changed
    staying = {name: slot for name, slot in slots.items() if not slot.retiring}
    if fitting <= 0 and seen_waiting >= PATIENCE and len(staying) == len(slots):
        if has_too_many(cluster, job):
            return (Move("retire", _last_up(staying)),) if _last_up(staying) else ()
        return ()
    pending = sum(not slot.up for slot in staying.values())
    if not others_wait(cluster, job):
        return (Move("start"),) * max(0, min(limit - len(slots), fitting - pending))
    return ()


def others_wait(cluster: ClusterState, job: str) -> bool:
    """Whether another job's group waits for resources."""
    return any(count for other, count in cluster.waiting.items() if other != job)


def has_too_many(cluster: ClusterState, job: str) -> bool:
    """Whether a slot of ours would be one nearer to equal shares in the hands of a search that waits.

    A search that has one slot less than we have is as well off as we would be after yielding, and would yield
    it back: then nobody moves.
    """
    mine = cluster.groups.get(job, 0)
    return any(
        count and cluster.groups.get(other, 0) + 2 <= mine
        for other, count in cluster.waiting.items()
        if other != job
    )


def _of_machine(name: str, slot: SlotState, cluster: ClusterState) -> Move | None:
    if not slot.up:
        return None
    if not cluster.alive.issuperset(slot.nodes):
        return Move("lost", name)
    left = min((cluster.draining[node] for node in slot.nodes if node in cluster.draining), default=None)
    if left is None:
        return None
    if left <= LAST_SECONDS:
        return Move("vacate_now", name)
    return None if slot.retiring else Move("vacate", name)


def _last_up(slots: Mapping[str, SlotState]) -> str:
    return next((name for name in reversed(list(slots)) if slots[name].up), "")
