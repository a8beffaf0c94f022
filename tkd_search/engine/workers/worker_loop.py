"""Endless training loop of a warm worker group: take a job, run it on every rank, push its results.

Runs inside Ray Train (``train_loop_per_worker``). Starting a group takes seconds, mostly to import torch;
starting a job takes a tenth of one.
"""

import importlib
import os
import traceback
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import ray
import ray.train
import torch

from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.workers.failures import environment_failed, out_of_memory, peer_lost
from tkd_search.engine.workers.job_monitor import JobMonitor
from tkd_search.engine.workers.job_queue import LESS_MEMORY
from tkd_search.engine.workers.queue_clients import GroupClient
from tkd_search.engine.workers.ranks import Ranks
from tkd_search.engine.workers.slot import GroupId, WorkerGroup

MAX_FAILURES = 3
"""Failed jobs in a row after which the process restarts: an error can spoil it (a GPU's context)."""

_REASON_LENGTH = 400
"""Characters of a failed job's reason that are kept."""

RunJob = Callable[[dict[str, Any], JobContext], None]


def worker_loop(config: dict[str, Any]) -> None:
    """Run jobs until an ``exit`` job comes.

    Args:
        config: ``queue`` (actor handle), ``slot`` (name), ``threads`` (per worker, int), ``gpu`` (whether Ray
            reserved one for each worker), ``runner`` (``package.module:function`` that takes a job and a
            :class:`JobContext`).

    Raises:
        RuntimeError: :data:`MAX_FAILURES` jobs failed in a row.
    """
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    module, _, function = config["runner"].partition(":")
    run_job: RunJob = getattr(importlib.import_module(module), function)
    client = _client(config, ranks)
    if ranks.rank == 0:
        client.attach()
    # Without a reserved GPU, torch may see one that others use.
    device = "cuda" if config["gpu"] and torch.cuda.is_available() else "cpu"
    job_id, failures = -1, 0
    while failures < MAX_FAILURES:
        taken = ranks.share(partial(client.take, job_id))
        if taken is None:
            continue
        job_id, job = taken
        if job["kind"] == "exit":
            return
        run = partial(run_job, job)
        failures = 0 if _serve(run, job_id, client, ranks, device) else failures + 1
    raise RuntimeError(f"{failures} jobs failed in a row in this process; Ray Train restarts the group")


def _client(config: dict[str, Any], ranks: Ranks) -> GroupClient:
    """Return the group's client; any rank may report a failure of a job."""
    ray_context = ray.get_runtime_context()
    group = WorkerGroup(
        GroupId(config["slot"], ranks.share(lambda: uuid.uuid4().hex)),
        pid=os.getpid(),
        nodes=tuple(sorted(set(ranks.gather(ray_context.get_node_id())))),
        actor=ray_context.current_actor,
        placement_group=ray.util.get_current_placement_group(),
    )
    return GroupClient(config["queue"], group)


def _serve(
    run: Callable[[JobContext], None], job_id: int, client: GroupClient, ranks: Ranks, device: str
) -> bool:
    """Run one job; False where it failed, after its failure was pushed.

    Raises:
        Exception: the job failed in a group of several ranks. The other ranks may wait in a collective, so
            Ray Train restarts the group as a whole.
    """
    with JobMonitor(client, job_id) if ranks.rank == 0 else nullcontext() as monitor:
        try:
            run(_job_context(monitor, ranks, device))
        except Exception as error:
            # A rank whose peer died has not failed: the group restarts and continues the job.
            if not (ranks.size > 1 and peer_lost(error)):
                client.push(job_id, _failure(error))
            if ranks.size > 1:
                raise
            return False
    return True


def _job_context(monitor: JobMonitor | None, ranks: Ranks, device: str) -> JobContext:
    def beat() -> None:
        if monitor is not None:
            monitor.beat()

    def should_stop() -> bool:
        beat()
        return ranks.agree(monitor is not None and monitor.superseded.is_set())

    return JobContext(
        rank=ranks.rank,
        workers=ranks.size,
        device=device,
        push=monitor.push if monitor is not None else lambda result: None,
        should_stop=should_stop,
        beat=beat,
    )


def _failure(error: Exception) -> dict[str, Any]:
    """Return the result of a failed job: ``failed`` by its configuration, ``broken`` by its environment."""
    text = " ".join(str(error).split()) or type(error).__name__
    reason = f"{type(error).__name__}: {text}"
    if out_of_memory(error):  # first, since PyTorch begins with the line of its allocator
        reason = f"out of memory; {LESS_MEMORY} ({reason})"
    return {
        "kind": "broken" if environment_failed(error) else "failed",
        "reason": reason if len(reason) <= _REASON_LENGTH else f"{reason[: _REASON_LENGTH - 1]}…",
        "trace": traceback.format_exc(limit=20),
    }
