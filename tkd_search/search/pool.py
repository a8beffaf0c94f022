"""The pool of warm worker groups: started once by the driver, watched, grown and shrunk.

Each group is one never-ending Ray Train run in a thread of the driver. Ray Train restarts a group whose
worker died; the pool starts a new one where the whole run gave up.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from tkd_search.search.settings import ResourceSettings
from tkd_search.search.worker import worker_loop


@dataclass
class _Group:
    slot: str
    thread: threading.Thread
    error: BaseException | None = None


class WarmPool:
    """Worker groups that outlive trials.

    Args:
        broker: the search's mailboxes.
        resources: what one group takes.
        slots: groups to request; those that do not fit yet stay pending and are the autoscaler's demand.
        storage: folder or URI for Ray Train's own bookkeeping.
        runner: ``package.module:function`` that runs a job.
    """

    def __init__(
        self,
        broker: ActorHandle,
        resources: ResourceSettings,
        slots: int,
        storage: str | Path,
        *,
        runner: str = "tkd_search.search.jobs:run_job",
    ) -> None:
        self._broker, self._resources, self._storage = broker, resources, str(storage)
        self._runner = runner
        self._groups: dict[str, _Group] = {}
        self._started = 0
        self._closing = threading.Event()
        self._failures: list[str] = []
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
        overview = ray.get(self._broker.overview.remote())
        return sum(1 for state in overview.values() if state["attached"])

    def wait(self, timeout: float) -> None:
        """Until one group is up.

        Raises:
            RuntimeError: none came up in time; with the reason of the last that gave up.
        """
        end = time.monotonic() + timeout
        while not self.attached():
            if len(self._failures) > 2 or time.monotonic() > end:
                reason = self._failures[-1] if self._failures else f"nothing came up in {timeout:g} s"
                raise RuntimeError(f"no worker group could be started: {reason}")
            time.sleep(0.1)

    def close(self, timeout: float = 20.0) -> None:
        """End every group and wait for their runs."""
        self._closing.set()
        for slot in list(self._groups):
            ray.get(self._broker.retire.remote(slot, True))
        end = time.monotonic() + timeout
        for group in list(self._groups.values()):
            group.thread.join(max(0.1, end - time.monotonic()))

    def _start(self) -> None:
        slot = f"slot{self._started}"
        self._started += 1
        group = _Group(slot, threading.Thread(target=self._run, args=(slot,), daemon=True, name=slot))
        self._groups[slot] = group
        group.thread.start()

    def _run(self, slot: str) -> None:
        trainer = group_trainer(self._broker, slot, self._resources, self._storage, self._runner)
        try:
            trainer.fit()
        except BaseException as error:
            if not self._closing.is_set():
                self._failures.append(f"{type(error).__name__}: {error}")

    def _watch(self) -> None:
        """Replace groups whose run gave up; back off so that a broken environment does not spin."""
        while not self._closing.wait(1.0 + 2.0 * min(len(self._failures), 15)):
            for slot, group in list(self._groups.items()):
                if not group.thread.is_alive() and not self._closing.is_set():
                    del self._groups[slot]
                    ray.get(self._broker.forget.remote(slot))
                    self._start()


def group_trainer(
    broker: ActorHandle, slot: str, resources: ResourceSettings, storage: str, runner: str
) -> TorchTrainer:
    """The never-ending Ray Train run behind one slot."""
    per_worker: dict[str, Any] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return TorchTrainer(
        worker_loop,
        train_loop_config={
            "broker": broker,
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
