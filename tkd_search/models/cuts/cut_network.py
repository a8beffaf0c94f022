"""Cut a network to a width, and refuse networks that cannot be cut."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.errors import UserError
from tkd_search.models.cuts import cut_record
from tkd_search.models.cuts.channel_groups import ChannelGroup, UncuttableError
from tkd_search.models.cuts.channel_importance import Batches, has_batch_norm, scores
from tkd_search.models.cuts.dependency_walk import find_groups, refused
from tkd_search.models.cuts.equivalence import check_equivalence
from tkd_search.models.cuts.widths import Ratios, group_widths, kept_channels


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A network cut from another, and the plain JSON from which :func:`apply_cut` rebuilds its architecture.

    ``record`` has ``schema``, ``removed`` (the indices of the channels removed from each group, by the first
    layer that writes them), ``shapes`` (of the tensors that changed, by name) and ``heads`` (left in each
    self-attention, by the module's name).
    """

    network: nn.Module
    record: dict[str, Any]


def cut(
    network: nn.Module,
    example: Tensor,
    *,
    width: float,
    importance: str = "magnitude",
    ratios: Ratios | None = None,
    batches: Batches | None = None,
    seed: int = 0,
    groups: Sequence[ChannelGroup] | None = None,
) -> Cut:
    """Return a copy of a network without its least important channels; what stays keeps its weights.

    Every group of channels is cut to the same share, so that the shapes depend on the widths alone and their
    bytes are known beforehand; the importance chooses which channels stay.

    Args:
        network: images [B, C, H, W] → logits [B, c]; not changed.
        example: images that it takes, B ≥ 2, on its device.
        width: share in (0, 1] of the channels, heads and hidden layers that stays; half leaves about a
            quarter of the parameters. The input's channels and the logits stay whole.
        importance: one of ``IMPORTANCES``; see :func:`tkd_search.models.cuts.channel_importance.scores`.
        ratios: shares by stage or by layer in place of ``width``; see
            :func:`tkd_search.models.cuts.widths.group_widths`.
        batches: normalised training images and labels for ``taylor``, on the network's device.
        seed: seed of ``random``.
        groups: what :func:`find_groups` returned for this architecture; found anew without.

    Statistics of batch normalisation are those of F, which no longer fit: call
    ``tkd_search.distill.training.evaluation.recalibrate(cut.network, batches of training images)`` before the
    cut is evaluated without training.

    Raises:
        UserError: wrong settings, or a network that cannot be cut.
    """
    groups = find_groups(network, example) if groups is None else groups
    shares = group_widths(groups, width, ratios)
    values = scores(network, groups, importance, batches=batches, seed=seed)
    kept = {group.name: kept_channels(group, values[group.name], shares[group.name]) for group in groups}
    return _cut(copy.deepcopy(network), groups, kept)


def check_cut(
    network: nn.Module, example: Tensor, *, importances: Collection[str] = ()
) -> tuple[ChannelGroup, ...]:
    """Refuse a network that cannot be cut, and return its groups of channels.

    Args:
        network: F's architecture with random or other weights, not on the meta device.
        example: images that it takes, B ≥ 2.
        importances: the criteria that a search may choose.

    Cuts a copy in half, runs it, and compares its logits with those of F in which no layer reads the removed
    channels; they agree for every network whose channels are followed rightly.

    Raises:
        UserError: it names the layer or operation.
    """
    groups = find_groups(network, example)
    if "bn_scale" in importances and not has_batch_norm(network):
        raise UserError(
            "student.importance",
            "bn_scale, where F has no batch normalisation",
            "magnitude | taylor | random",
        )
    made = cut(network, example, width=0.5, importance="random", groups=groups)
    try:
        check_equivalence(network, made.network, example, groups, made.record["removed"])
    except UncuttableError as error:
        raise refused(error) from error
    return groups


def _cut(made: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> Cut:
    """Cut a network in place."""
    state = made.state_dict(keep_vars=True)
    masks = axis_masks(groups, kept)
    tensors: dict[str, Tensor] = {}
    for (name, axis), mask in masks.items():
        if not mask.all():
            tensor = tensors.get(name, state[name]).detach()
            tensors[name] = tensor.index_select(axis, mask.nonzero()[:, 0].to(tensor.device))
    heads = {group.name: _heads_left(group, kept[group.name]) for group in groups if group.inner}
    cut_record.write_tensors(made, tensors, heads)
    record = {
        "schema": cut_record.SCHEMA,
        "removed": {name: (~mask).nonzero()[:, 0].tolist() for name, mask in kept.items() if not mask.all()},
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "heads": heads,
    }
    return Cut(network=made, record=record)


def axis_masks(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """Return which positions stay of every (tensor, axis), bool; several groups may share an axis."""
    masks: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        with_others = torch.cat([kept[group.name], torch.ones(1, dtype=torch.bool)])
        for one in group.slices:
            mask = with_others[one.roots]
            key = (one.tensor, one.axis)
            masks[key] = masks[key] & mask if key in masks else mask
    return masks


def _heads_left(group: ChannelGroup, kept: Tensor) -> int:
    return int(kept.view(group.heads, -1).any(1).sum())
