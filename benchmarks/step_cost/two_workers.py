"""Steps of plain training by two workers: ours, and PyTorch's DistributedDataParallel.

torchrun starts two processes, each with one thread and half of every batch. All trainings run in these
processes in turn, over the same gloo group, so that a busy machine slows all alike. Ours is the training of a
Ray Train worker without Ray: the same loop and reduction, and the control message before every batch. Both
normalise each worker's rows by themselves. Counted is wall time between barriers.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step_cost.one_process import CHANNELS, CLASSES, SIZE, NoiseViews, measure, timed
from tkd_search.distill import Distiller, MethodSettings, TrainSettings
from tkd_search.distill.training.reduction import reduction_for
from tkd_search.engine.workers.ranks import Ranks
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings

WORKERS = 2


def measure_two_workers(
    *, rounds: int, batches: int, settings: StudentSettings, train: TrainSettings
) -> dict[str, list[float]]:
    """Return milliseconds per batch of every training, one figure per round."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job")
        job.write_bytes(pickle.dumps((rounds, batches, settings, train)))
        threads = {**os.environ, "OMP_NUM_THREADS": "1"}
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={WORKERS}",
        ]
        subprocess.run(
            [*torchrun, "-m", "benchmarks.step_cost.two_workers", str(job)], check=True, env=threads
        )
        found: dict[str, list[float]] = json.loads(Path(folder, "found.json").read_text())
    return found


def _plain(views: NoiseViews, settings: StudentSettings, train: TrainSettings) -> Callable[[], None]:
    """Return an epoch of a plain training loop with DistributedDataParallel."""
    network: Any = build_student(settings, classes=CLASSES, channels=CHANNELS, size=SIZE).model
    model = DistributedDataParallel(network.to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.lr, weight_decay=train.weight_decay)
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for rows in torch.randperm(len(views), generator=generator).split(train.batch_size):
            own = rows.chunk(WORKERS)[dist.get_rank()]
            loss = nn.functional.cross_entropy(model(views.images[own]), views.labels[own])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def _ours(views: NoiseViews, settings: StudentSettings, train: TrainSettings) -> Callable[[], None]:
    """Return an epoch of our training."""
    student = build_student(settings, classes=CLASSES, channels=CHANNELS, size=SIZE)
    method, reduction = MethodSettings(name="ce"), reduction_for(WORKERS)
    training = Distiller(student, views, method, train, seed=0, reduction=reduction, class_count=CLASSES)
    ranks = Ranks(reduction.rank, reduction.size)

    def epoch() -> None:
        training.run_epoch(lambda: ranks.agree(False))

    return epoch


def _work(job: Path) -> None:
    """Measure as one of the workers; rank 0 writes ``found.json`` beside the job."""
    rounds, batches, settings, train = pickle.loads(job.read_bytes())
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    views = NoiseViews(batches * train.batch_size, 1, "cpu")
    epochs = {
        "ce, 2 workers": _ours(views, settings, train),
        "ce, torchrun": _plain(views, settings, train),
    }

    def to_barrier(epoch: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            epoch()
            dist.barrier()

        return run

    steps = {name: timed(to_barrier(epoch), time.perf_counter) for name, epoch in epochs.items()}
    found = measure(steps, rounds=rounds, batches=batches)
    if dist.get_rank() == 0:
        job.with_name("found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
