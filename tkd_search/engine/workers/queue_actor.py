"""The mailboxes as a Ray actor: long polls instead of busy waiting, and a client for each side.

The actor restarts when killed and has then forgotten everything: groups attach again by asking for work,
holders find their lease lost and take another, trials go on from their own checkpoints.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from tkd_search.engine.workers.job_queue import JobQueue, Lease, LeaseLostError

POLL_SECONDS = 10.0
"""Longest single long poll; below gloo's and Ray's own time-outs."""
BEAT_SECONDS = 2.0
"""Between two renewals of a lease, a fifth of its default time to live."""


@ray.remote(num_cpus=0, max_concurrency=1000, max_restarts=-1, max_task_retries=-1)
class QueueActor:
    """One per search; every public method is a call of :class:`JobQueue`, waited for where it may wait."""

    def __init__(self, time_to_live: float = 10.0) -> None:
        self._jobs = JobQueue(time_to_live=time_to_live, generation=time.time_ns() & 0x7FFFFFFF)
        self._changed = asyncio.Condition()

    async def attach(self, slot: str, info: dict[str, Any]) -> None:
        """A group came up."""
        self._jobs.attach(slot, info)
        await self._notify()

    async def take(self, slot: str, after: int) -> tuple[int, dict[str, Any]] | None:
        """The next job for a group, None after one long poll without."""
        return await self._wait(lambda: self._jobs.take(slot, after), POLL_SECONDS)

    async def push(self, slot: str, job_id: int, result: dict[str, Any]) -> bool:
        """Deliver a result, waiting while the mailbox is full; False where the job is superseded."""
        answer = None
        while answer not in ("accepted", "superseded"):
            answer = await self._wait(
                lambda: None if (a := self._jobs.push(slot, job_id, result)) == "full" else a, POLL_SECONDS
            )
        await self._notify()
        return answer == "accepted"

    async def wait_superseded(self, slot: str, job_id: int) -> bool:
        """True as soon as the job is superseded, False after one long poll."""
        return bool(await self._wait(lambda: self._jobs.superseded(slot, job_id) or None, POLL_SECONDS))

    async def lease(self, holder: str, timeout: float) -> Lease | None:
        """A free slot, waited for; None where none became free in time."""
        return await self._wait(lambda: self._jobs.lease(holder, time.monotonic()), timeout, every=1.0)

    async def beat(self, lease: Lease) -> bool:
        """Renew a lease; False where it is lost."""
        return self._jobs.beat(lease, time.monotonic())

    async def release(self, lease: Lease) -> None:
        """Give a slot back."""
        self._jobs.release(lease)
        await self._notify()

    async def post(self, lease: Lease, job: dict[str, Any]) -> int | None:
        """The job's number, None where the lease is lost."""
        try:
            return self._jobs.post(lease, job)
        except LeaseLostError:
            return None
        finally:
            await self._notify()

    async def pull(self, lease: Lease, job_id: int, timeout: float) -> tuple[bool, dict[str, Any] | None]:
        """(still held, next result or None)."""
        try:
            result = await self._wait(lambda: self._jobs.pull(lease, job_id), timeout)
        except LeaseLostError:
            return False, None
        await self._notify()
        return True, result

    async def retire(self, slot: str, evict: bool = False) -> None:
        """Ask a slot to end once nobody holds it, or at once."""
        self._jobs.retire(slot, evict=evict)
        await self._notify()

    async def vacate(self, slot: str, at_once: bool = False) -> None:
        """A slot's machine is about to go."""
        self._jobs.vacate(slot, at_once=at_once)
        await self._notify()

    async def lost(self, slot: str) -> None:
        """A slot's machine has gone."""
        self._jobs.lost(slot)
        await self._notify()

    async def forget(self, slot: str) -> None:
        """A group is gone for good."""
        self._jobs.forget(slot)
        await self._notify()

    async def overview(self) -> dict[str, dict[str, Any]]:
        """State of every slot."""
        self._jobs.expire(time.monotonic())
        return self._jobs.overview()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, ask: Callable[[], Any], timeout: float, every: float | None = None) -> Any:
        """The first answer that is not None, asked again at each change (and each ``every`` seconds)."""
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


class SlotClient:
    """A holder's hand on one slot: leases it, keeps the lease alive, posts jobs and pulls results.

    Args:
        broker: handle of the :class:`QueueActor`.
        holder: name shown in overviews.
        timeout: seconds to wait for a free slot.

    Raises:
        LeaseLostError: no slot became free in time.
    """

    def __init__(self, queue: ActorHandle, holder: str, *, timeout: float = 60.0) -> None:
        self._queue = queue
        lease = ray.get(queue.lease.remote(holder, timeout))
        if lease is None:
            raise LeaseLostError(f"no worker group became free in {timeout:g} s")
        self.lease: Lease = lease
        self._job_id: int | None = None
        self._released = threading.Event()
        threading.Thread(target=self._keep_alive, daemon=True, name=f"lease-{lease.slot}").start()

    def post(self, job: dict[str, Any]) -> None:
        """Put a job before the group; results of an earlier one are dropped."""
        self._job_id = ray.get(self._queue.post.remote(self.lease, job))
        if self._job_id is None:
            raise LeaseLostError(self.lease.slot)

    def pull(self, timeout: float = 2.0) -> dict[str, Any] | None:
        """The next result, None where none came within ``timeout`` seconds.

        Raises:
            LeaseLostError: another holder has the slot, or the broker was restarted.
        """
        held, result = ray.get(self._queue.pull.remote(self.lease, self._job_id, timeout))
        if not held:
            raise LeaseLostError(self.lease.slot)
        return result

    def release(self) -> None:
        """Give the slot back."""
        self._released.set()
        ray.get(self._queue.release.remote(self.lease))

    def _keep_alive(self) -> None:
        """Renew the lease between calls: a slow driver must not cost a trial its group."""
        while not self._released.wait(BEAT_SECONDS):
            if not ray.get(self._queue.beat.remote(self.lease)):
                return
