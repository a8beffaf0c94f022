"""The pool of warm worker groups: started once by the driver, watched, grown and shrunk.

Each group is one never-ending Ray Train run in a thread of the driver. Ray Train restarts a group whose
worker died; the pool starts a new one where the whole run gave up. Every few seconds it looks at the
machines, and does what :func:`~tkd_search.engine.workers.autoscaling.decide` says: trials leave machines
that are about to go, slots are added where there is room, and given up where another search waits.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.engine.workers.autoscaling import Move, SlotState, decide, others_wait
from tkd_search.engine.workers.cluster_state import cluster_state, end_train_runs, own_job
from tkd_search.engine.workers.placement import workers_on
from tkd_search.engine.workers.queue_actor import QueueActor
from tkd_search.engine.workers.worker_loop import worker_loop

RUN_JOB = "tkd_search.engine.jobs.dispatch:run_job"

LOOK_SECONDS = 2.0
"""Between two looks at the machines; a cloud's notice of preemption comes 30 to 120 seconds ahead."""


@dataclass
class _Group:
    slot: str
    thread: threading.Thread
    yielded: bool = False


class WarmPool:
    """Worker groups that outlive trials.

    Args:
        broker: the search's mailboxes.
        resources: what one group takes.
        slots: groups to request; those that do not fit yet stay pending and are the autoscaler's demand.
        storage: folder or URI for Ray Train's own bookkeeping.
        limit: groups to grow to where there is room; default: ``slots``.
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
        self._groups: dict[str, _Group] = {}
        self._started = self._room = self._seen_waiting = 0
        self._closing = threading.Event()
        self._failures: list[str] = []
        self._restart_after = 0.0
        for _ in range(slots):
            self._start()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="pool")
        self._watcher.start()

    @property
    def failures(self) -> list[str]:
        """Why groups gave up, in order; empty in a healthy search."""
        return list(self._failures)

    def attached(self) -> int:
        """Groups that are up."""
        self._room = sum(slot.up and not slot.retiring for slot in self._slots().values())
        return self._room

    def room(self) -> int:
        """Groups that were up at the last look: so many trials can run."""
        return self._room

    def wait(self, timeout: float, groups: int = 1) -> None:
        """Until so many groups are up.

        Raises:
            RuntimeError: they did not come up in time; with the reason of the last that gave up.
        """
        end = time.monotonic() + timeout
        while self.attached() < groups:
            if len(self._failures) > 2 or time.monotonic() > end:
                reason = self._failures[-1] if self._failures else f"nothing came up in {timeout:g} s"
                raise RuntimeError(f"no worker group could be started: {reason}")
            time.sleep(0.1)

    def close(self, timeout: float = 20.0) -> None:
        """End every group and wait for their runs."""
        self._closing.set()
        self._watcher.join(timeout)  # it must not ask a Ray that is being left
        for slot in list(self._groups):
            ray.get(self._queue.retire.remote(slot, True))
        slots, groups = self._slots(), list(self._groups.values())
        self._join([group for group in groups if slots[group.slot].up], timeout)
        end = time.monotonic() + timeout
        # What is left waits for resources or hangs. Again and again: a controller may just be starting.
        while any(group.thread.is_alive() for group in groups) and time.monotonic() < end:
            end_train_runs()
            self._join(groups, 1.0)

    @staticmethod
    def _join(groups: list[_Group], timeout: float) -> None:
        end = time.monotonic() + timeout
        for group in groups:
            group.thread.join(max(0.1, end - time.monotonic()))

    def _start(self) -> None:
        slot = f"slot{self._started}"
        self._started += 1
        group = _Group(slot, threading.Thread(target=self._run, args=(slot,), daemon=True, name=slot))
        self._groups[slot] = group
        group.thread.start()

    def _run(self, slot: str) -> None:
        trainer = group_trainer(self._queue, slot, self._resources, self._storage, self._runner)
        try:
            trainer.fit()
        except BaseException as error:
            if not self._closing.is_set():
                self._failures.append(f"{type(error).__name__}: {error}")
                # Back off, so that a broken environment does not spin.
                self._restart_after = time.monotonic() + 2.0 * min(len(self._failures), 15)

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            try:
                self._replace_ended()
                self._look()
            except (ray.exceptions.RayError, RuntimeError):
                continue  # Ray's own processes may be restarting; the next look comes soon

    def _replace_ended(self) -> None:
        """Start anew what gave up or made way, but not what was yielded to another search."""
        for slot, group in list(self._groups.items()):
            if group.thread.is_alive() or (not group.yielded and time.monotonic() < self._restart_after):
                continue
            del self._groups[slot]
            ray.get(self._queue.forget.remote(slot))
            if not group.yielded:
                self._start()

    def _look(self) -> None:
        """See where slots and machines stand, and act on it."""
        cluster, slots, job = cluster_state(), self._slots(), own_job()
        self._room = sum(slot.up and not slot.retiring for slot in slots.values())
        self._seen_waiting = self._seen_waiting + 1 if others_wait(cluster, job) else 0
        workers = sum(workers_on(self._resources, free) for free in cluster.available)
        for move in decide(
            slots,
            cluster,
            job=job,
            limit=self._limit,
            fitting=workers // self._resources.workers_per_trial,
            seen_waiting=self._seen_waiting,
        ):
            self._act(move)

    def _act(self, move: Move) -> None:
        if self._closing.is_set():
            return
        if move.kind == "start":
            self._start()
        elif move.kind == "lost":
            ray.get(self._queue.lost.remote(move.slot))
        elif move.kind == "retire":
            self._groups[move.slot].yielded = True
            self._seen_waiting = 0
            ray.get(self._queue.retire.remote(move.slot))
        else:
            ray.get(self._queue.vacate.remote(move.slot, move.kind == "vacate_now"))

    def _slots(self) -> dict[str, SlotState]:
        overview = ray.get(self._queue.overview.remote())
        found = {}
        for slot in list(self._groups):
            state = overview.get(slot, {"info": {}, "up": False, "retiring": False})
            nodes = tuple(state["info"].get("nodes", ()))
            found[slot] = SlotState(nodes=nodes, up=state["up"], retiring=state["retiring"])
        return found


def group_trainer(
    queue: ActorHandle, slot: str, resources: ResourceSettings, storage: str, runner: str
) -> TorchTrainer:
    """The never-ending Ray Train run behind one slot."""
    per_worker: dict[str, Any] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return TorchTrainer(
        worker_loop,
        train_loop_config={
            "broker": queue,
            "slot": slot,
            "runner": runner,
            "threads": max(1, int(resources.cpus_per_worker)),
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(name=slot, storage_path=storage, failure_config=FailureConfig(max_failures=-1)),
    )


@contextmanager
def open_pool(
    resources: ResourceSettings, slots: int, folder: Path, *, limit: int | None = None, runner: str = RUN_JOB
) -> Iterator[tuple[ActorHandle, WarmPool]]:
    """A broker and its warm worker groups for the length of a ``with`` block.

    Args:
        resources: what one group takes.
        slots: groups to request.
        folder: for Ray Train's own bookkeeping.
        limit: groups to grow to where machines join; default: ``slots``.
        runner: ``package.module:function`` that runs a job.
    """
    queue = QueueActor.options(  # type: ignore[attr-defined]
        # Beside the driver: a worker host may leave at any time, and the leases with it.
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
