"""The endless training loop of a warm worker group: take a job, run it on every rank, stream its results.

Runs inside Ray Train (``train_loop_per_worker``). Starting a group costs seconds, mostly importing torch;
a job costs a tenth of one.
"""

import importlib
import os
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.actor import ActorHandle

from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.workers.failures import environment_failed, peer_lost

FAILURES = 3
"""Jobs that fail in a row: the process may be at fault, not they (a GPU's context that an error spoilt)."""

_REASON = 400
"""Characters of a failed job's reason that are kept."""


def worker_loop(config: dict[str, Any]) -> None:
    """Serve jobs until told to exit.

    Args:
        config: ``broker`` (actor handle), ``slot`` (name), ``threads`` (per worker, int), ``runner``
            (``package.module:function`` that takes a job and a :class:`JobContext`).

    Raises:
        RuntimeError: so many jobs failed in a row that a fresh process should go on.
    """
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    ranks = _Ranks(context.get_world_rank(), context.get_world_size())
    queue, slot = config["broker"], config["slot"]
    module, _, function = config["runner"].partition(":")
    run_job = getattr(importlib.import_module(module), function)
    nodes = ranks.gather(ray.get_runtime_context().get_node_id())
    if ranks.rank == 0:
        info = {"pid": os.getpid(), "nodes": sorted(set(nodes)), "workers": ranks.size}
        ray.get(queue.attach.remote(slot, info))
    job_id, failures = -1, 0
    while failures < FAILURES:
        taken = ranks.share(partial(_take, queue, slot, job_id))
        if taken is None:
            continue
        job_id, job = taken
        if job["kind"] == "exit":
            return
        failures = 0 if _serve(run_job, queue, slot, job_id, job, ranks) else failures + 1
    raise RuntimeError(f"{failures} jobs failed in a row here; Ray Train starts the group anew")


def _take(queue: ActorHandle, slot: str, after: int) -> tuple[int, dict[str, Any]] | None:
    taken: tuple[int, dict[str, Any]] | None = ray.get(queue.take.remote(slot, after))
    return taken


def _serve(
    run_job: Callable[[dict[str, Any], JobContext], None],
    queue: ActorHandle,
    slot: str,
    job_id: int,
    job: dict[str, Any],
    ranks: "_Ranks",
) -> bool:
    """Run one job, whether it went well; a failing one is reported and must not take the warm group with it.

    ``failed`` is the job's own doing, ``broken`` that of the machine or the storage, on whichever rank.
    """
    superseded = threading.Event()
    finished = threading.Event()
    if ranks.rank == 0:
        watcher = threading.Thread(
            target=_watch, args=(queue, slot, job_id, superseded, finished), daemon=True
        )
        watcher.start()

    def push(result: dict[str, Any]) -> None:
        if ranks.rank == 0 and not ray.get(queue.push.remote(slot, job_id, result)):
            superseded.set()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    context = JobContext(
        rank=ranks.rank,
        workers=ranks.size,
        device=device,
        push=push,
        should_stop=lambda: ranks.agree(superseded.is_set()),
    )
    try:
        run_job(job, context)
    except Exception as error:
        broken = environment_failed(error)
        # Whose peer has died has not failed: the group comes back and goes on with the job.
        if not (ranks.size > 1 and peer_lost(error)):
            failure = {"kind": "broken" if broken else "failed", "reason": _reason(error)}
            ray.get(queue.push.remote(slot, job_id, {**failure, "trace": traceback.format_exc(limit=20)}))
        if ranks.size > 1:
            # The other ranks may wait in a collective: let Ray Train restart the group as a whole.
            raise
        return False
    else:
        return True
    finally:
        finished.set()


def _watch(
    queue: ActorHandle, slot: str, job_id: int, superseded: threading.Event, finished: threading.Event
) -> None:
    while not finished.is_set():
        if ray.get(queue.wait_superseded.remote(slot, job_id)):
            superseded.set()
            return


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    whole = f"{type(error).__name__}: {text}"
    return whole if len(whole) <= _REASON else f"{whole[: _REASON - 1]}…"


class _Ranks:
    """What all ranks of a group must do alike, decided by rank 0."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        # Control messages go over gloo, which needs no GPU and does not mix with NCCL's streams.
        self._group = dist.new_group(backend="gloo") if size > 1 else None

    def share(self, produce: Callable[[], Any]) -> Any:
        """Rank 0's value on every rank."""
        if self.size == 1:
            return produce()
        box = [produce() if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def agree(self, flag: bool) -> bool:
        """Rank 0's flag on every rank."""
        if self.size == 1:
            return flag
        box = torch.tensor([int(flag)])
        dist.broadcast(box, src=0, group=self._group)
        return bool(box.item())
