"""Ray actor around the job queue: long polls instead of busy waiting.

A killed actor restarts with an empty queue: groups attach again with their next request, holders find their
lease lost and take another, and trials continue from their own checkpoints.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

import ray

from tkd_search.engine.workers.job_queue import JobQueue
from tkd_search.engine.workers.slot import (
    GroupId,
    Lease,
    LeaseLostError,
    SlotState,
    StalledError,
    WorkerGroup,
)

POLL_SECONDS = 10.0
"""Longest single long poll; below the time-outs of gloo and of Ray."""

HEARTBEAT_SECONDS = 5.0
"""Between two heartbeats of a running job."""

PullAnswer = tuple[Literal["held", "lost", "stalled"], Any]
"""``held`` with the next result or None, ``lost`` with None, ``stalled`` with the group that hangs."""


@ray.remote(num_cpus=0, max_concurrency=1000, max_restarts=-1, max_task_retries=-1)
class QueueActor:
    """One per search. Every public method calls :class:`JobQueue`, and waits where the answer may come later.

    Args:
        time_to_live: seconds without a renewal after which a lease is over.
    """

    def __init__(self, time_to_live: float = 10.0) -> None:
        self._jobs = JobQueue(time_to_live=time_to_live, generation=time.time_ns() & 0x7FFFFFFF)
        self._changed = asyncio.Condition()

    async def attach(self, group: WorkerGroup) -> None:
        """Register a group that has started."""
        self._jobs.attach(group)
        await self._notify()

    async def take(self, group: WorkerGroup, after: int) -> tuple[int, dict[str, Any]] | None:
        """Return the next job for a group; None after one long poll without one."""
        # Once a request: a request that waits while its slot is removed must not create the slot again.
        self._jobs.attach_unknown(group)
        return await self._wait(lambda: self._jobs.take(group.id, after), POLL_SECONDS)

    async def start(self, group: GroupId, job_id: int) -> bool:
        """Count an attempt at a job; False where the job is superseded."""
        return self._jobs.start(group, job_id)

    async def push(self, group: GroupId, job_id: int, result: dict[str, Any]) -> bool:
        """Add a result, waiting while the holder has unread ones; False where the job is superseded."""

        def push() -> str | None:
            answer = self._jobs.push(group, job_id, result)
            return None if answer == "full" else answer

        answer = None
        while answer is None:
            answer = await self._wait(push, POLL_SECONDS)
        await self._notify()
        return bool(answer == "accepted")

    async def wait_superseded(self, group: GroupId, job_id: int, progressed: bool) -> bool:
        """Record a heartbeat where the job progressed; True as soon as the job is superseded.

        False after :data:`HEARTBEAT_SECONDS`.
        """
        if progressed:
            self._jobs.heartbeat(group, job_id)
        return bool(await self._wait(lambda: self._jobs.superseded(group, job_id) or None, HEARTBEAT_SECONDS))

    async def lease(self, holder: str, timeout: float) -> Lease | None:
        """Lease a free slot; None where none became free in time."""
        return await self._wait(lambda: self._jobs.lease(holder), timeout, every=1.0)

    async def renew(self, lease: Lease) -> bool:
        """Renew a lease; False where it is lost."""
        return self._jobs.renew(lease)

    async def release(self, lease: Lease) -> None:
        """End a lease."""
        self._jobs.release(lease)
        await self._notify()

    async def post(self, lease: Lease, job: dict[str, Any]) -> int | None:
        """Set the slot's job and return its number; None where the lease is lost."""
        try:
            return self._jobs.post(lease, job)
        except LeaseLostError:
            return None
        finally:
            await self._notify()

    async def pull(self, lease: Lease, job_id: int, timeout: float, silence_limit: float) -> PullAnswer:
        """Return whether the lease holds, with the next result; see :meth:`JobQueue.pull`."""
        try:
            result = await self._wait(lambda: self._jobs.pull(lease, job_id, silence_limit), timeout)
        except LeaseLostError:
            return "lost", None
        except StalledError as error:
            await self._notify()
            return "stalled", error.group
        await self._notify()
        return "held", result

    async def retire(self, slot: str, evict: bool = False) -> None:
        """End a slot once it has no holder, or at once."""
        self._jobs.retire(slot, evict=evict)
        await self._notify()

    async def vacate(self, slot: str, at_once: bool = False) -> None:
        """Interrupt the job of a slot whose machine is about to go."""
        self._jobs.vacate(slot, at_once=at_once)
        await self._notify()

    async def mark_lost(self, slot: str) -> None:
        """Interrupt the job of a slot whose machine is gone."""
        self._jobs.mark_lost(slot)
        await self._notify()

    async def remove(self, slot: str) -> None:
        """Remove a slot whose run has ended."""
        self._jobs.remove(slot)
        await self._notify()

    async def overview(self) -> dict[str, SlotState]:
        """Return the state of every slot."""
        return self._jobs.overview()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, ask: Callable[[], Any], timeout: float, every: float | None = None) -> Any:
        """Return the first answer that is not None; ask at each change and every ``every`` seconds."""
        end = time.monotonic() + timeout
        async with self._changed:
            while (answer := ask()) is None:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                try:
                    await asyncio.wait_for(self._changed.wait(), min(left, every or left))
                except TimeoutError:
                    continue
        return answer
