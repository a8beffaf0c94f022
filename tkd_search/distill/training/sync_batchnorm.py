"""Batch normalisation of several workers: over the rows of all, where each has few, else over a worker's own.

Statistics of 32 rows are enough: accuracy falls below 16 (Wu and He 2018, "Group normalization", figure 1),
and those of all workers cost several messages in every layer. Own statistics are averaged after each step in
one message, so that all workers evaluate and store the same network.

With NCCL this is torch's SyncBatchNorm; with other backends (gloo), which SyncBatchNorm does not support, it
is ``AllReduceBatchNorm``.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tkd_search.distill.training.reduction import Reduction

ENOUGH_ROWS = 32
"""Rows of a batch on one worker from which its own statistics are used."""
_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduced gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class AllReduceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d/2d/3d with training statistics over the rows of all workers.

    In eval mode it is an ordinary batch normalisation; names in its state dict are the same.
    """

    original: type[nn.Module] = nn.BatchNorm2d

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, found {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, …] over all axes but C, and over all workers; then run the layers inside."""
        if not self.training:
            return _then_children(self, super().forward(input))
        axes = [i for i in range(input.dim()) if i != 1]
        wide = input.float()  # sums overflow in half precision
        count = torch.tensor(float(input.numel() // input.shape[1]))
        count = _SumOverRanks.apply(count)
        mean = _SumOverRanks.apply(wide.sum(axes)) / count
        shape = (1, -1, *(1,) * (input.dim() - 2))
        centred = wide - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(axes)) / count
        self._track(mean, variance * (count / (count - 1).clamp_min(1)))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return _then_children(self, out.to(input.dtype))

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class NcclBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, followed by the layers inside it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, …] over all axes but C, and over all workers; then run the layers inside."""
        return _then_children(self, super().forward(input))


def _then_children(module: nn.Module, out: Tensor) -> Tensor:
    """Run the layers inside a batch norm; timm's ends with a dropout and an activation."""
    for child in module.children():
        out = child(out)
    return out


def _replaced(old: nn.Module, new: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    """Return ``new`` with the tensors, inner layers, hooks and mode of ``old``."""
    for name, child in old.named_children():
        setattr(new, name, child)
    for name, parameter in old.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in old.named_buffers(recurse=False):
        setattr(new, name, buffer)
    _copy_hooks_and_type(old, new)
    return new.train(old.training)


def _copy_hooks_and_type(old: nn.Module, new: nn.Module) -> None:
    """Copy the hooks, which read maps, and record the type of module that ``new`` replaces."""
    new._forward_hooks, new._forward_pre_hooks = old._forward_hooks, old._forward_pre_hooks
    if isinstance(old, _KINDS):
        new.original = type(old)  # type: ignore[assignment]


def _swap(module: nn.Module, swap_one: Any) -> nn.Module:
    """Apply ``swap_one`` to a module, or to all modules inside it where it returns the module itself."""
    swapped = swap_one(module)
    if swapped is not module:
        return swapped
    for name, child in module.named_children():
        changed = _swap(child, swap_one)
        if changed is not child:
            setattr(module, name, changed)
    return module


def synchronised(module: nn.Module) -> nn.Module:
    """Replace batch normalisations by ones over all workers, in place; parameters stay the same tensors."""
    return converted(module, NcclBatchNorm if dist.get_backend() == "nccl" else AllReduceBatchNorm)


def converted(module: nn.Module, kind: type[AllReduceBatchNorm | NcclBatchNorm]) -> nn.Module:
    """Replace batch normalisations by those of a kind, in place, keeping inner layers, hooks and types."""

    def one(old: nn.Module) -> nn.Module:
        if not isinstance(old, _KINDS):
            return old
        settings = (old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
        return _replaced(old, kind(*settings))

    return _swap(module, one)


class StatisticsAverage:
    """The running statistics of a network's ordinary batch normalisations, as means over workers.

    Args:
        network: the network in training.
        reduction: over its workers.
    """

    def __init__(self, network: nn.Module, reduction: Reduction) -> None:
        self._reduction = reduction
        norms = [one for one in network.modules() if isinstance(one, _KINDS)] if reduction.size > 1 else []
        found = [statistic for one in norms for statistic in (one.running_mean, one.running_var)]
        self._statistics = [statistic for statistic in found if statistic is not None]

    @torch.no_grad()
    def update(self) -> None:
        """Replace the statistics by their means over all workers, in place, with one message."""
        if not self._statistics:
            return
        flat = torch.cat(self._statistics)
        self._reduction.average_gradients([flat])
        sizes = [statistic.numel() for statistic in self._statistics]
        torch._foreach_copy_(self._statistics, flat.split(sizes))


def desynchronised(module: nn.Module) -> nn.Module:
    """Replace synchronised batch normalisations by ordinary ones, in place."""

    def one(old: nn.Module) -> nn.Module:
        if not isinstance(old, AllReduceBatchNorm | nn.SyncBatchNorm):
            return old
        kind: Any = getattr(old, "original", nn.BatchNorm2d)
        new = kind(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
        return _replaced(old, new)

    return _swap(module, one)
