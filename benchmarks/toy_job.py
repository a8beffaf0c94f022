"""A job that trains a linear layer for a given time, to measure and test the orchestration around it."""

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch

from tkd_search.engine.jobs.job_context import JobContext


def run_toy_job(job: dict[str, Any], context: JobContext) -> None:
    """Train a linear layer for ``point["seconds"]``, spread over ``epochs`` epochs of ten batches.

    Other keys of ``point`` make it ``fail`` by an exception, report a ``full`` disk, ask for more ``memory``
    than there is, ``kill`` its process, ``hang`` before the first batch, or kill rank 1 once
    (``lose_rank_1``: a file that marks it).
    """
    point, epochs = job["point"], job["epochs"]
    if point.get("fail"):
        raise ValueError("this configuration fails")
    if point.get("full"):
        raise OSError(errno.ENOSPC, "No space left on device")
    if point.get("memory"):
        torch.empty(1 << 50)
    if point.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)  # like the kernel where memory runs out
    if point.get("hang"):
        threading.Event().wait()
    lost = Path(point["lose_rank_1"]) if "lose_rank_1" in point else None
    if lost is not None and context.rank == 1 and not lost.exists():
        lost.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    model = torch.nn.Linear(64, 10)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(job["after_epoch"] + 1, epochs + 1):
        for _ in range(10):
            if context.should_stop():
                return
            loss = model(torch.randn(32, 64)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            time.sleep(point["seconds"] / epochs / 10)
        context.push(
            {
                "kind": "epoch",
                "epoch": epoch,
                "val_accuracy": point.get("accuracy", 0.5) * epoch / epochs,
                "metrics": {"loss": loss.item()},
                "last": epoch == epochs,
            }
        )
    context.push({"kind": "done"})
