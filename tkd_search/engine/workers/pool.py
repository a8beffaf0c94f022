"""Pool of warm worker groups: starts them, replaces ended ones, grows and shrinks with the cluster.

Each group is one endless Ray Train run in a thread of the driver. Ray Train restarts a group whose worker
died; the pool starts a new run where a whole run ended. Every few seconds it checks the machines and does
what :func:`~tkd_search.engine.workers.autoscaling.decide` returns.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.engine.workers.autoscaling import Action, decide, others_wait
from tkd_search.engine.workers.cluster_state import cluster_state, end_train_runs, own_job
from tkd_search.engine.workers.group_run import group_trainer
from tkd_search.engine.workers.periodic_checks import PeriodicChecks
from tkd_search.engine.workers.placement import workers_on
from tkd_search.engine.workers.queue_actor import QueueActor
from tkd_search.engine.workers.slot import SlotState
from tkd_search.errors import UserError

RUN_JOB = "tkd_search.engine.jobs.dispatch:run_job"

CHECK_SECONDS = 2.0
"""Between two checks of the machines; a cloud's notice of preemption comes 30 to 120 seconds ahead."""

MAX_START_FAILURES = 2
"""Failed runs after which :meth:`WarmPool.wait` gives up on the first group."""


@dataclass
class _Run:
    """The Ray Train run of a slot; ``yielded`` where the slot is given up to another search."""

    slot: str
    thread: threading.Thread
    yielded: bool = False


class WarmPool:
    """Worker groups that outlive trials.

    Args:
        queue: handle of the queue's actor.
        resources: what one group takes.
        slots: groups to request; those that do not fit yet stay pending and are the autoscaler's demand.
        storage: folder or URI for Ray Train's own files.
        limit: most groups, should machines join; default: ``slots``.
        runner: ``package.module:function`` that runs a job.
    """

    def __init__(
        self,
        queue: ActorHandle,
        resources: ResourceSettings,
        slots: int,
        storage: str | Path,
        *,
        limit: int | None = None,
        runner: str = RUN_JOB,
    ) -> None:
        self._queue, self._resources, self._storage = queue, resources, str(storage)
        self._runner, self._limit = runner, max(slots, limit or slots)
        self._runs: dict[str, _Run] = {}
        self._started = self._room = self._checks_waiting = 0
        self._closing = threading.Event()
        self._failures: list[str] = []
        self._restart_after = 0.0
        for _ in range(slots):
            self._start()
        # RuntimeError: Ray's private state raises it while Ray's own processes restart.
        self._checks = PeriodicChecks(
            (self._replace_ended, self._check_machines),
            seconds=CHECK_SECONDS,
            name="worker groups",
            transient=(ray.exceptions.RayError, RuntimeError),
        )

    @property
    def failures(self) -> list[str]:
        """Why runs ended, in order; empty in a healthy search."""
        return list(self._failures)

    def attached(self) -> int:
        """Return the number of groups that are up, by asking the queue."""
        return self._count(self._slots())

    def room(self) -> int:
        """Return the number of groups that were up at the last check: as many trials can run."""
        return self._room

    def wait(self, timeout: float, groups: int = 1) -> None:
        """Wait until as many groups are up.

        Raises:
            UserError: they did not come up in time; with the reason of the run that ended last.
        """
        end = time.monotonic() + timeout
        while self.attached() < groups:
            if len(self._failures) > MAX_START_FAILURES or time.monotonic() > end:
                reason = self._failures[-1] if self._failures else f"nothing came up in {timeout:g} s"
                raise UserError(
                    "Ray", f"no worker group that starts ({reason})", "a machine on which one starts",
                    "python -m tkd_search doctor checks folders, memory and versions",
                )  # fmt: skip
            time.sleep(0.1)

    def close(self, timeout: float = 20.0) -> None:
        """End every group and wait for their runs."""
        self._closing.set()
        self._checks.close(timeout)  # a check must not query a Ray that is shutting down
        for slot in list(self._runs):
            ray.get(self._queue.retire.remote(slot, True))
        slots, runs = self._slots(), list(self._runs.values())
        _join([run for run in runs if slots[run.slot].up], timeout)
        end = time.monotonic() + timeout
        # The others wait for resources or hang. Repeated, because a controller may just be starting.
        while any(run.thread.is_alive() for run in runs) and time.monotonic() < end:
            end_train_runs()
            _join(runs, 1.0)

    def _start(self) -> None:
        slot = f"slot{self._started}"
        self._started += 1
        self._runs[slot] = _Run(
            slot, threading.Thread(target=self._run, args=(slot,), daemon=True, name=slot)
        )
        self._runs[slot].thread.start()

    def _run(self, slot: str) -> None:
        trainer = group_trainer(self._queue, slot, self._resources, self._storage, self._runner)
        try:
            trainer.fit()
        except BaseException as error:
            if not self._closing.is_set():
                self._failures.append(f"{type(error).__name__}: {error}")
                # A growing delay, so that a broken environment does not start runs all the time.
                self._restart_after = time.monotonic() + 2.0 * min(len(self._failures), 15)

    def _replace_ended(self) -> None:
        """Start a new run for each that ended, except for those yielded to another search."""
        slots = self._slots()
        for slot, run in list(self._runs.items()):
            if run.thread.is_alive() or (not run.yielded and time.monotonic() < self._restart_after):
                continue
            _free_resources(slots[slot].placement_group)
            ray.get(self._queue.remove.remote(slot))  # where this fails, the next check repeats all
            del self._runs[slot]
            if not run.yielded:
                self._start()

    def _check_machines(self) -> None:
        """Query slots and machines, and apply the decisions about them."""
        cluster, slots, job = cluster_state(), self._slots(), own_job()
        self._count(slots)
        self._checks_waiting = self._checks_waiting + 1 if others_wait(cluster, job) else 0
        workers = sum(workers_on(self._resources, free) for free in cluster.available)
        for action in decide(
            slots,
            cluster,
            job=job,
            limit=self._limit,
            free_groups=workers // self._resources.workers_per_trial,
            checks_waiting=self._checks_waiting,
        ):
            self._apply(action)

    def _apply(self, action: Action) -> None:
        if self._closing.is_set():
            return
        if action.kind == "start":
            self._start()
        elif action.kind == "lost":
            ray.get(self._queue.mark_lost.remote(action.slot))
        elif action.kind == "retire":
            self._runs[action.slot].yielded = True
            self._checks_waiting = 0
            ray.get(self._queue.retire.remote(action.slot))
        else:
            ray.get(self._queue.vacate.remote(action.slot, action.kind == "vacate_now"))

    def _slots(self) -> dict[str, SlotState]:
        """Return the state of this pool's slots; also of those that have not attached yet."""
        overview = ray.get(self._queue.overview.remote())
        return {slot: overview.get(slot, SlotState()) for slot in list(self._runs)}

    def _count(self, slots: dict[str, SlotState]) -> int:
        self._room = sum(slot.up and not slot.retiring for slot in slots.values())
        return self._room


def _free_resources(placement_group: PlacementGroup | None) -> None:
    """Remove what is left of a run whose controller was killed.

    Ray Train's own cleaner needs the dashboard, which a local Ray does not have, and Ray ends a placement
    group with its job only. Its resources would be missing for good.
    """
    if placement_group is not None:
        remove_placement_group(placement_group)


def _join(runs: list[_Run], timeout: float) -> None:
    end = time.monotonic() + timeout
    for run in runs:
        run.thread.join(max(0.1, end - time.monotonic()))


@contextmanager
def open_pool(
    resources: ResourceSettings, slots: int, folder: Path, *, limit: int | None = None, runner: str = RUN_JOB
) -> Iterator[tuple[ActorHandle, WarmPool]]:
    """A job queue and its warm worker groups for the length of a ``with`` block.

    Args:
        resources: what one group takes.
        slots: groups to request.
        folder: for Ray Train's own files.
        limit: most groups, should machines join; default: ``slots``.
        runner: ``package.module:function`` that runs a job.
    """
    queue = QueueActor.options(  # type: ignore[attr-defined]
        # On the driver's node: a worker's node may leave at any time, and the leases with it.
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
    ).remote()
    pool = WarmPool(queue, resources, slots, folder, limit=limit, runner=runner)
    try:
        yield queue, pool
    finally:
        pool.close()
        ray.kill(queue)
