"""What a job sees of the worker group it runs on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JobContext:
    """What a job may use of the group it runs on.

    Attributes:
        rank: this worker's rank, from 0.
        workers: number of ranks.
        device: torch device name.
        push: delivers a result (on rank 0; a no-op on the others), waiting while the mailbox is full.
        should_stop: the same answer on every rank; True once the job is superseded.
    """

    rank: int
    workers: int
    device: str
    push: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]
