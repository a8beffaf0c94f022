"""Latency of a model on this machine."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def latency_ms(
    module: nn.Module,
    example: Tensor,
    batch_sizes: Sequence[int] = (1, 32),
    repeats: int = 50,
    threads: int = 1,
) -> dict[int, float]:
    """Measure the median milliseconds of a forward pass in eval mode, per batch size.

    Args:
        module: the network, on the device of ``example``; its mode is restored.
        example: images [≥ 1, C, H, W]; the first is repeated.
        batch_sizes: each ≥ 1.
        repeats: timed passes per batch size, after a tenth as many untimed passes.
        threads: number of CPU threads.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode(), torch_threads(threads):
            return {size: _median(module, _repeated(example, size), repeats) for size in batch_sizes}
    finally:
        module.train(was_training)


def _repeated(example: Tensor, size: int) -> Tensor:
    batch = example[:1].repeat(size, *(1,) * (example.dim() - 1))
    return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def _median(module: nn.Module, batch: Tensor, repeats: int) -> float:
    for _ in range(max(1, repeats // 10)):
        module(batch)
    seconds = []
    for _ in range(repeats):
        _wait_for(batch)
        start = time.perf_counter()
        module(batch)
        _wait_for(batch)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def _wait_for(batch: Tensor) -> None:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of intra-op threads in a ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
