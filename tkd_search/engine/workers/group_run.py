"""The Ray Train run behind one slot."""

from typing import Any

from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.engine.workers.worker_loop import worker_loop


def group_trainer(
    queue: ActorHandle, slot: str, resources: ResourceSettings, storage: str, runner: str
) -> TorchTrainer:
    """Return the trainer whose run is the slot's worker group; it restarts the group as often as it dies.

    Args:
        queue: handle of the queue's actor.
        slot: name of the slot.
        resources: what the group takes.
        storage: folder or URI for Ray Train's own files.
        runner: ``package.module:function`` that runs a job.
    """
    per_worker: dict[str, Any] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return TorchTrainer(
        worker_loop,
        train_loop_config={
            "queue": queue,
            "slot": slot,
            "runner": runner,
            "threads": max(1, int(resources.cpus_per_worker)),
            "gpu": resources.gpus_per_worker > 0,
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(name=slot, storage_path=storage, failure_config=FailureConfig(max_failures=-1)),
    )
