"""Quantities that several workers compute together, so that W workers equal one at the same global batch.

J_k, its gradient, CKA and batch statistics are not means over samples. They are computed from global
quantities on every rank; parameter gradients are averaged over ranks afterwards. Under that averaging a
differentiable mean passes its gradient through unchanged, and gathered rows carry the gradient of their
own rank, times W.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Reduction(Protocol):
    """Collective operations over the ranks of one trial."""

    rank: int
    size: int

    def mean(self, local: Tensor) -> Tensor:
        """Return the mean over ranks of means over equally many rows, differentiable (see the module)."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Return all ranks' rows [B, …] → [W·B, …] in rank order.

        The result is differentiable in this rank's rows (see the module).
        """
        ...

    def average_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over ranks, in place."""
        ...

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors in place with those of rank 0."""
        ...


class SingleProcess:
    """The reduction of one worker: every operation returns its input."""

    rank, size = 0, 1

    def mean(self, local: Tensor) -> Tensor:
        """Return the value itself."""
        return local

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows themselves."""
        return rows

    def average_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Do nothing."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Do nothing."""


class AllReduce:
    """The reduction over the default process group of ``torch.distributed``."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def mean(self, local: Tensor) -> Tensor:
        """See ``Reduction``."""
        over_ranks = local.detach().clone()
        dist.all_reduce(over_ranks)
        return local + (over_ranks / self.size - local.detach())

    def gather(self, rows: Tensor) -> Tensor:
        """See ``Reduction``."""
        own = rows.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        if rows.requires_grad:
            parts[self.rank] = self.size * rows - (self.size - 1) * own
        return torch.cat(parts)

    def average_gradients(self, gradients: Iterable[Tensor]) -> None:
        """See ``Reduction``; one collective per gradient, without a copy where the gradient is contiguous."""
        for gradient in gradients:
            whole = gradient.contiguous()
            dist.all_reduce(whole)
            whole.div_(self.size)
            if whole is not gradient:
                gradient.copy_(whole)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """See ``Reduction``."""
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=0)
            tensor.detach().copy_(whole)


def reduction_for(workers: int) -> Reduction:
    """Return the reduction over this many workers; more than one need an initialised process group."""
    return SingleProcess() if workers == 1 else AllReduce()
