"""Reading of the next batches while the current one is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from torch import Tensor

from tkd_search.distill.interfaces import ViewSource

T = TypeVar("T")
R = TypeVar("R")

DEPTH = 3
"""Batches that are read ahead."""


def read_ahead(
    items: Iterable[T], read: Callable[[T], R] | None
) -> Generator[tuple[T, R | None], None, None]:
    """Yield every item with what ``read`` returns for it, in order; at most ``DEPTH`` items are read ahead.

    ``read`` runs in one other thread, so the order of its calls does not change. Its errors are raised at
    their item. Without ``read`` there is no thread and the second value is None.
    """
    if read is None:
        yield from ((item, None) for item in items)
        return
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > DEPTH:
                first, reading = waiting.popleft()
                yield first, reading.result()
        while waiting:
            first, reading = waiting.popleft()
            yield first, reading.result()
    finally:
        pool.shutdown(cancel_futures=True)


def images_ahead(
    views: ViewSource, batches: Iterable[tuple[Tensor, Tensor]]
) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
    """Yield (index, view, images) for every (index, view); images that are not in memory are read ahead."""
    read: Callable[[Tensor], Tensor] | None = getattr(views, "read", None)
    if read is None:
        yield from ((index, view, views.batch(index, view)) for index, view in batches)
        return
    for (index, view), stored in read_ahead(batches, lambda batch: read(batch[0])):
        yield index, view, views.batch(index, view, stored)  # type: ignore[call-arg]
