"""Control messages between the ranks of a worker group, sent by rank 0."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """One rank's view of its worker group.

    Args:
        rank: this worker's rank, from 0.
        size: number of ranks.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        # Control messages go over gloo, which needs no GPU and does not mix with NCCL's streams.
        self._group = dist.new_group(backend="gloo") if size > 1 else None

    def share(self, produce: Callable[[], Any]) -> Any:
        """Call ``produce`` on rank 0 and return its value on every rank."""
        if self.size == 1:
            return produce()
        values = [produce() if self.rank == 0 else None]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value on every rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def agree(self, flag: bool) -> bool:
        """Return rank 0's flag on every rank."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.broadcast(flags, src=0, group=self._group)
        return bool(flags.item())
