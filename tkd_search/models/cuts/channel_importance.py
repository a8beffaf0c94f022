"""How important the channels of a group are: the criteria by which a cut chooses what stays."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tkd_search.distill.interfaces import logits_of
from tkd_search.errors import UserError
from tkd_search.models.cuts.channel_groups import ChannelGroup, Slice
from tkd_search.models.module_roles import eval_mode

IMPORTANCES = ("magnitude", "bn_scale", "taylor", "random")

Batches = Iterable[tuple[Tensor, Tensor]]


def scores(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    importance: str,
    *,
    batches: Batches | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the importance of the channels of every group, float32 [channels] on the CPU, by its name.

    Args:
        network: the network that the groups are of.
        groups: what :func:`find_groups` returns.
        importance: one of ``IMPORTANCES``. ``magnitude``: the squared L2 norm of all weights of a channel
            (Fang et al., CVPR 2023). ``bn_scale``: the sum of |γ| of its batch normalisations (Liu et al.,
            Network slimming, ICCV 2017), for groups without one ``magnitude``. ``taylor``: the square of the
            first-order change of the loss when the channel is removed, (Σ w · ∂L/∂w)² over the weights that
            read it, averaged over batches (Molchanov et al., Importance estimation, CVPR 2019, equation 8).
            ``random``: uniform, from ``seed``.
        batches: training images [B, C, H, W] and labels [B], normalised, for ``taylor``.
        seed: seed of ``random``.

    Raises:
        UserError: an unknown criterion, or ``taylor`` without batches.
    """
    if importance not in IMPORTANCES:
        raise UserError("student.importance", repr(importance), " | ".join(IMPORTANCES))
    if importance == "random":
        made = torch.Generator().manual_seed(seed)
        return {group.name: torch.rand(group.channels, generator=made) for group in groups}
    if importance == "taylor":
        return _taylor(network, groups, batches)
    tensors = dict(network.named_parameters())
    norms = _batch_norm_weights(network)
    found = {}
    for group in groups:
        scaled = [one for one in group.slices if one.tensor in norms]
        if importance == "bn_scale" and scaled:
            found[group.name] = _summed(group, scaled, lambda name: tensors[name].abs())
        else:
            weights = [one for one in group.slices if _is_weight(one, tensors)]
            found[group.name] = _summed(group, weights, lambda name: tensors[name].square())
    return found


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether ``bn_scale`` says anything about a network."""
    return bool(_batch_norm_weights(network))


def _batch_norm_weights(network: nn.Module) -> set[str]:
    return {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }


def _is_weight(one: Slice, tensors: Mapping[str, Tensor]) -> bool:
    return one.tensor in tensors and not one.tensor.endswith("bias")


@torch.no_grad()
def _summed(group: ChannelGroup, slices: Iterable[Slice], value_of: Callable[[str], Tensor]) -> Tensor:
    """Return Σ of the values that belong to each channel, [channels]."""
    total = torch.zeros(group.channels + 1)
    for one in slices:
        value = value_of(one.tensor).detach().float().movedim(one.axis, 0)
        # Positions of other groups (root -1) are summed into the last place, which is left out.
        total.index_add_(0, one.roots % (group.channels + 1), value.reshape(len(value), -1).sum(1).cpu())
    return total[:-1]


def _taylor(network: nn.Module, groups: Sequence[ChannelGroup], batches: Batches | None) -> dict[str, Tensor]:
    values = dict(network.named_parameters())
    totals = {group.name: torch.zeros(group.channels) for group in groups}
    count = 0
    with _all_trained(network):
        for images, labels in batches or ():
            count += 1
            loss = F.cross_entropy(logits_of(network(images)).float(), labels)
            found = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
            changes = {
                name: value * gradient
                for (name, value), gradient in zip(values.items(), found, strict=True)
                if gradient is not None
            }
            for group in groups:
                reading = [one for one in group.slices if one.use == "reads" and one.tensor in changes]
                totals[group.name] += _summed(group, reading, changes.__getitem__).square()
    if count == 0:
        raise UserError(
            "student.importance",
            "taylor, without a training batch",
            "batches of images and labels for taylor, or another criterion",
        )
    return {name: total / count for name, total in totals.items()}


@contextmanager
def _all_trained(network: nn.Module) -> Iterator[None]:
    """Eval mode with gradients of all parameters for a while; both are put back."""
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(True)
    try:
        with eval_mode(network), torch.enable_grad():
            yield
    finally:
        for parameter, required in wanted:
            parameter.requires_grad_(required)
