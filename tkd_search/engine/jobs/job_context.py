"""The worker group, as a job sees it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class JobContext:
    """The worker group that runs a job.

    Attributes:
        rank: this worker's rank, from 0.
        workers: number of ranks.
        device: torch device name.
        push: delivers a result (on rank 0; no effect on the others); blocks while the queue is full.
        should_stop: returns the same answer on every rank: True once the job is superseded.
        beat: sends a heartbeat: the job has made progress. ``push`` and ``should_stop`` send one too.
    """

    rank: int
    workers: int
    device: str
    push: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]
    beat: Callable[[], None] = lambda: None

    def beating(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items of a long loop without ``should_stop``, and send a heartbeat after each."""
        for item in items:
            yield item
            self.beat()
