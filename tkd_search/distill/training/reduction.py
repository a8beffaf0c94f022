"""What several workers must agree on, so that W of them equal one worker at the same global batch.

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
    """The ranks of one trial."""

    rank: int
    size: int

    def mean(self, local: Tensor) -> Tensor:
        """Mean over ranks of equally many rows' means, differentiable (see the module)."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """All ranks' rows [B, …] → [W·B, …] in rank order, differentiable in this rank's (see the module)."""
        ...

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over ranks."""
        ...

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors in place with rank 0's."""
        ...


class SingleProcess:
    """One worker: nothing to agree on."""

    rank, size = 0, 1

    def mean(self, local: Tensor) -> Tensor:
        """The value itself."""
        return local

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Do nothing."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Do nothing."""


class AllReduce:
    """The ranks of a ``torch.distributed`` process group.

    Args:
        group: the group; None for the default one.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def _sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, group=self._group)
        return tensor

    def mean(self, local: Tensor) -> Tensor:
        """See ``Reduction``."""
        everyone = self._sum(local.detach().clone()) / self.size
        return local + (everyone - local.detach())

    def gather(self, rows: Tensor) -> Tensor:
        """See ``Reduction``."""
        mine = rows.detach().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self._group)
        if rows.requires_grad:
            parts[self.rank] = self.size * rows - (self.size - 1) * mine
        return torch.cat(parts)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """See ``Reduction``; one collective over all gradients laid end to end."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if not grads:
            return
        flat = self._sum(torch.cat([g.reshape(-1) for g in grads])) / self.size
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view(grad.shape))
            start += grad.numel()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """See ``Reduction``."""
        source = 0 if self._group is None else dist.get_global_rank(self._group, 0)
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=source, group=self._group)
            tensor.detach().copy_(whole)


def reduction_for(workers: int, group: dist.ProcessGroup | None = None) -> Reduction:
    """The reduction of so many workers; more than one need an initialised process group."""
    return SingleProcess() if workers == 1 else AllReduce(group)
