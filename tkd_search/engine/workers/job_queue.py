"""Job queue between trials and worker groups: pure state, no Ray.

A *slot* is a place for one warm worker group. A *holder* (a trial's Trainable, or the driver for a stage)
leases a slot, posts one job at a time and pulls its results; the group takes the job and pushes results.
Every call names its lease, or its group and job, so that a replaced caller is refused instead of disturbing
its successor (fencing). :mod:`~tkd_search.engine.workers.queue_actor` wraps this in an actor.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tkd_search.engine.workers.slot import (
    GroupId,
    Lease,
    LeaseLostError,
    Slot,
    SlotState,
    StalledError,
    WorkerGroup,
)

PushAnswer = Literal["accepted", "full", "superseded"]

JOB_ATTEMPTS = 3
"""Starts of a job in a row that may end with its group's death and without progress; then the job fails."""

_ENDINGS = ("done", "failed", "broken")

LESS_MEMORY = "a smaller batch or model, or fewer trials at once (resources.max_concurrent), need less memory"
"""What a user can do where memory ran out."""

_WORKER_DIED = (
    f"its worker process died {JOB_ATTEMPTS} times in a row (out of memory, or a crash in a library: see its "
    f".err file in Ray's log folder); {LESS_MEMORY}"
)


class JobQueue:
    """All slots of one search.

    Args:
        clock: seconds, monotonic.
        time_to_live: seconds without a renewal after which a lease is over.
        max_unread: results that a group may push before the holder has pulled them (back-pressure).
        generation: differs between incarnations of the queue's actor, so that leases and jobs of an earlier
            actor are never valid in a later one.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        time_to_live: float = 10.0,
        max_unread: int = 2,
        generation: int = 0,
    ) -> None:
        self._slots: dict[str, Slot] = {}
        self._clock, self._time_to_live, self._max_unread = clock, time_to_live, max_unread
        self._counter = generation << 32

    # called by the worker group ---------------------------------------------------------------------

    def attach(self, group: WorkerGroup) -> None:
        """Register a group that has started; it replaces the slot's earlier one and can take its job."""
        slot = self._slots.setdefault(group.id.slot, Slot(group))
        slot.group, slot.up, slot.heartbeat = group, True, self._clock()

    def attach_unknown(self, group: WorkerGroup) -> None:
        """Register a group whose slot is unknown, because the queue's actor was restarted."""
        if group.id.slot not in self._slots:
            self.attach(group)

    def take(self, group: GroupId, after: int) -> tuple[int, dict[str, Any]] | None:
        """Return the number and content of the job posted since job ``after``; None where there is none.

        A retiring slot without a holder gets an ``exit`` job, and so does a group that was replaced: the
        request of a dead group can wait here longer than the group lives. A group that restarted gets its
        unfinished job again, at most :data:`JOB_ATTEMPTS` times without progress; then the job fails.
        """
        slot = self._of_group(group)
        if slot is None:
            return self._exit_job()
        if slot.job is not None and slot.job_id != after:
            if slot.attempts < JOB_ATTEMPTS:
                return slot.job_id, slot.job
            slot.job = None
            slot.results.append({"kind": "failed", "reason": _WORKER_DIED, "trace": ""})
        return self._exit_job() if slot.retiring and slot.holder is None else None

    def start(self, group: GroupId, job_id: int) -> bool:
        """Count an attempt at a job; False where the job is superseded.

        Separate from :meth:`take`, whose answer can go to a group that has died in the meantime.
        """
        if self.superseded(group, job_id):
            return False
        slot = self._slots[group.slot]
        if slot.started_by != group.incarnation:
            slot.started_by, slot.attempts, slot.pushed = group.incarnation, slot.attempts + 1, 0
        slot.heartbeat = self._clock()
        return True

    def push(self, group: GroupId, job_id: int, result: dict[str, Any]) -> PushAnswer:
        """Add one result; ``full`` means to retry later, ``superseded`` to stop the job at once.

        ``{"kind": "alive"}`` is never ``full``: it is dropped where other results wait.
        """
        if self.superseded(group, job_id):
            return "superseded"
        slot = self._slots[group.slot]
        droppable = result.get("kind") == "alive" and bool(slot.results)
        if len(slot.results) >= self._max_unread and not droppable:
            return "full"
        if not droppable:
            slot.results.append(result)
        slot.heartbeat = self._clock()
        _count_progress(slot, result)
        if result.get("kind") in _ENDINGS:
            slot.job = None  # a group that restarts now must not run it again
        if slot.vacating and result.get("kind") == "epoch" and not result.get("last"):
            slot.interrupt()
        return "accepted"

    def heartbeat(self, group: GroupId, job_id: int) -> None:
        """Record that a job made progress, such as one training step, since the last heartbeat."""
        if not self.superseded(group, job_id):
            self._slots[group.slot].heartbeat = self._clock()

    def superseded(self, group: GroupId, job_id: int) -> bool:
        """Return whether the job is no longer this group's to run."""
        slot = self._of_group(group)
        return slot is None or slot.job is None or slot.job_id != job_id

    # called by the holder ---------------------------------------------------------------------------

    def lease(self, holder: str) -> Lease | None:
        """Lease the first free slot, in order of attachment; None where all are taken."""
        self.expire()
        for name, slot in self._slots.items():
            if slot.up and slot.holder is None and not slot.retiring:
                slot.holder, slot.token, slot.renewed = holder, self._next_number(), self._clock()
                return Lease(name, slot.token)
        return None

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False where it is lost."""
        slot = self._of_lease(lease)
        if slot is not None:
            slot.renewed = self._clock()
        return slot is not None

    def release(self, lease: Lease) -> None:
        """End a lease and supersede its job; a lost lease is ignored."""
        slot = self._of_lease(lease)
        if slot is not None:
            slot.free()

    def expire(self) -> None:
        """End the leases that were not renewed in time."""
        for slot in self._slots.values():
            if slot.holder is not None and self._clock() - slot.renewed > self._time_to_live:
                slot.free()

    def post(self, lease: Lease, job: dict[str, Any]) -> int:
        """Set the slot's job, superseding an earlier one, and return the job's number.

        Raises:
            LeaseLostError: the caller no longer holds the slot.
        """
        slot = self._of_lease(lease)
        if slot is None:
            raise LeaseLostError(lease.slot)
        slot.job, slot.job_id, slot.heartbeat = job, self._next_number(), self._clock()
        slot.started_by, slot.attempts, slot.pushed, slot.furthest = "", 0, 0, 0
        slot.results.clear()
        if slot.vacating or not slot.up:
            slot.interrupt()
        return slot.job_id

    def pull(self, lease: Lease, job_id: int, silence_limit: float = math.inf) -> dict[str, Any] | None:
        """Return the next result of a job, or None where there is none yet.

        Args:
            lease: the caller's.
            job_id: number of the job.
            silence_limit: seconds without a heartbeat after which an unfinished job counts as hanging.

        Raises:
            LeaseLostError: the caller no longer holds the slot, or posted another job since.
            StalledError: the job hangs. The lease is over, and the slot is leased again only after its group
                has restarted.
        """
        slot = self._of_lease(lease)
        if slot is None or slot.job_id != job_id:
            raise LeaseLostError(lease.slot)
        if slot.results:
            return slot.results.popleft()
        if slot.job is not None and self._clock() - slot.heartbeat > silence_limit:
            slot.up = False
            slot.free()
            raise StalledError(slot.group, silence_limit)
        return None

    # called by the pool -----------------------------------------------------------------------------

    def retire(self, name: str, *, evict: bool = False) -> None:
        """End a slot once it has no holder; ``evict`` ends the holder's lease at once."""
        if name in self._slots:
            self._slots[name].retiring = True
            if evict:
                self._slots[name].free()

    def vacate(self, name: str, *, at_once: bool = False) -> None:
        """Interrupt a slot's job after its current epoch, or at once, and retire the slot.

        The holder finds ``{"kind": "interrupted"}`` among the results and continues on another slot.
        """
        slot = self._slots.get(name)
        if slot is not None:
            slot.retiring = slot.vacating = True
            if at_once:
                slot.interrupt()

    def mark_lost(self, name: str) -> None:
        """Interrupt the job of a slot whose machine is gone; the slot is leased again after it attaches."""
        slot = self._slots.get(name)
        if slot is not None and slot.up:
            slot.up = False
            slot.interrupt()

    def remove(self, name: str) -> None:
        """Remove a slot whose run has ended; its lease is lost."""
        self._slots.pop(name, None)

    def overview(self) -> dict[str, SlotState]:
        """Return the state of every slot."""
        self.expire()
        return {
            name: SlotState(
                nodes=slot.group.nodes,
                pid=slot.group.pid,
                up=slot.up,
                retiring=slot.retiring,
                holder=slot.holder,
                busy=slot.job is not None,
                silence=self._clock() - slot.heartbeat,
                placement_group=slot.group.placement_group,
            )
            for name, slot in self._slots.items()
        }

    def _of_group(self, group: GroupId) -> Slot | None:
        slot = self._slots.get(group.slot)
        return slot if slot is not None and slot.group.id == group else None

    def _of_lease(self, lease: Lease) -> Slot | None:
        slot = self._slots.get(lease.slot)
        return slot if slot is not None and slot.holder and slot.token == lease.token else None

    def _exit_job(self) -> tuple[int, dict[str, Any]]:
        return self._next_number(), {"kind": "exit"}

    def _next_number(self) -> int:
        self._counter += 1
        return self._counter


def _count_progress(slot: Slot, result: Mapping[str, Any]) -> None:
    """Reset the attempts once a job gets further than ever; a restarted job repeats earlier results."""
    slot.pushed += 1
    reached = result.get("epoch", result.get("done", slot.pushed))
    if reached > slot.furthest:
        slot.furthest, slot.attempts = reached, 1
