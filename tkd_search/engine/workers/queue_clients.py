"""Clients of the queue's actor: one for a worker group, one for the holder of a lease."""

import contextlib
import math
import threading
from typing import Any

import ray
from ray.actor import ActorHandle

from tkd_search.engine.workers.slot import Lease, LeaseLostError, StalledError, WorkerGroup

RENEW_SECONDS = 2.0
"""Between two renewals of a lease; a fifth of its default time to live."""


class GroupClient:
    """Client of one worker group: takes jobs and pushes results.

    Args:
        queue: handle of the :class:`~tkd_search.engine.workers.queue_actor.QueueActor`.
        group: the group.
    """

    def __init__(self, queue: ActorHandle, group: WorkerGroup) -> None:
        self._queue, self._group = queue, group

    def attach(self) -> None:
        """Register the group as its slot's current one."""
        ray.get(self._queue.attach.remote(self._group))

    def take(self, after: int) -> tuple[int, dict[str, Any]] | None:
        """Return the job posted since job number ``after`` and start it; None where there is none yet."""
        taken: tuple[int, dict[str, Any]] | None = ray.get(self._queue.take.remote(self._group, after))
        if taken is None or taken[1]["kind"] == "exit":
            return taken
        return taken if ray.get(self._queue.start.remote(self._group.id, taken[0])) else None

    def push(self, job_id: int, result: dict[str, Any]) -> bool:
        """Push a result, waiting while the holder has unread ones; False where the job is superseded."""
        return bool(ray.get(self._queue.push.remote(self._group.id, job_id, result)))

    def wait_superseded(self, job_id: int, progressed: bool) -> bool:
        """Send a heartbeat where the job progressed; whether it is superseded after one long poll."""
        return bool(ray.get(self._queue.wait_superseded.remote(self._group.id, job_id, progressed)))


class LeaseClient:
    """Client that holds a lease on one worker group, keeps it renewed, posts jobs and pulls their results.

    Args:
        queue: handle of the :class:`~tkd_search.engine.workers.queue_actor.QueueActor`.
        holder: name in overviews.
        timeout: seconds to wait for a free slot.
        silence_limit: seconds without a heartbeat after which a job counts as hanging; default: no limit.

    Raises:
        LeaseLostError: no slot became free in time.
    """

    def __init__(
        self, queue: ActorHandle, holder: str, *, timeout: float = 60.0, silence_limit: float = math.inf
    ) -> None:
        self._queue, self._silence_limit = queue, silence_limit
        lease = ray.get(queue.lease.remote(holder, timeout))
        if lease is None:
            raise LeaseLostError(f"no worker group became free in {timeout:g} s")
        self._lease: Lease = lease
        self._job_id: int | None = None
        self._released = threading.Event()
        threading.Thread(target=self._keep_renewed, daemon=True, name=f"lease-{lease.slot}").start()

    def post(self, job: dict[str, Any]) -> None:
        """Give the group a job; results of an earlier one are dropped.

        Raises:
            LeaseLostError: see :meth:`pull`.
        """
        self._job_id = ray.get(self._queue.post.remote(self._lease, job))
        if self._job_id is None:
            raise LeaseLostError(self._lease.slot)

    def pull(self, timeout: float = 2.0) -> dict[str, Any] | None:
        """Return the next result; None where none came within ``timeout`` seconds.

        Raises:
            LeaseLostError: another holder has the slot, or the queue's actor was restarted.
            StalledError: the job hangs; its worker process is killed, and Ray Train restarts the group.
        """
        status, answer = ray.get(
            self._queue.pull.remote(self._lease, self._job_id, timeout, self._silence_limit)
        )
        if status == "lost":
            raise LeaseLostError(self._lease.slot)
        if status == "stalled":
            self._released.set()
            with contextlib.suppress(ray.exceptions.RayError, ValueError):  # it may be dead already
                ray.kill(answer.actor)
            raise StalledError(answer, self._silence_limit)
        result: dict[str, Any] | None = answer
        return result

    def release(self) -> None:
        """End the lease."""
        self._released.set()
        ray.get(self._queue.release.remote(self._lease))

    def _keep_renewed(self) -> None:
        """Renew the lease between calls: a slow driver must not cost a trial its group."""
        while not self._released.wait(RENEW_SECONDS):
            if not ray.get(self._queue.renew.remote(self._lease)):
                return
