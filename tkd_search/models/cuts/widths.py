"""How many channels of each group stay: a pure function of the groups and the widths asked for."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tkd_search.errors import UserError, did_you_mean
from tkd_search.models.cuts.attention import head_mask, kept_head_width
from tkd_search.models.cuts.channel_groups import ChannelGroup

Ratios = Sequence[float] | Mapping[str, float]
_WHERE = "student.ratios"


def group_widths(
    groups: Sequence[ChannelGroup], width: float, ratios: Ratios | None = None
) -> dict[str, float]:
    """Return the share of channels that stays, in (0, 1], by the name of the group.

    Args:
        groups: what :func:`find_groups` returns.
        width: the share of every group that ``ratios`` does not name.
        ratios: a list has one share for every stage, from the largest maps to the smallest; a stage is the
            layers that work on maps of one side. A mapping has shares by the dotted name of a layer or of a
            module around it; of several that fit the longest name counts.

    Raises:
        UserError: a share outside (0, 1], a list of another length, or a name that no layer has.
    """
    _check_share("student.width", width)
    for share in ratios.values() if isinstance(ratios, Mapping) else ratios or ():
        _check_share(_WHERE, share)
    shares = {group.name: width for group in groups}
    if isinstance(ratios, Mapping):
        for group in groups:
            fitting = [name for name in ratios if _fits(group, name)]
            if fitting:
                shares[group.name] = ratios[max(fitting, key=len)]
        _check_names(groups, ratios)
    elif ratios is not None:
        sides = stage_sides(groups)
        if len(ratios) != len(sides):
            raise UserError(
                _WHERE,
                f"{len(ratios)} numbers",
                f"{len(sides)}, one for each stage (sides of maps: {', '.join(map(str, sides))})",
                "or a mapping from names of F's layers to numbers",
            )
        shares = {group.name: ratios[sides.index(group.side)] for group in groups}
    return shares


def stage_sides(groups: Sequence[ChannelGroup]) -> tuple[int, ...]:
    """Return the sides of the maps of all stages, the largest first."""
    return tuple(sorted({group.side for group in groups}, reverse=True))


def kept_count(group: ChannelGroup, share: float) -> int:
    """Return how many channels of a group stay: the share, rounded, at least one in each block.

    Groups that attentions read keep heads × width of a head instead.
    """
    if share >= 1:
        return group.channels
    if group.heads:
        heads, width = kept_head_width(group.channels, group.heads, share)
        return heads * width
    whole = group.channels // group.blocks
    return max(1, round(share * whole)) * group.blocks


def kept_channels(group: ChannelGroup, scores: Tensor, share: float) -> Tensor:
    """Return which channels stay, bool [channels]: those of the largest scores [channels]."""
    if group.inner:
        return head_mask(scores, group.heads, share)
    by_block = scores.view(group.blocks, -1).mean(0)
    count = kept_count(group, share) // group.blocks
    kept = torch.zeros(len(by_block), dtype=torch.bool)
    kept[by_block.argsort(descending=True, stable=True)[:count]] = True
    return kept.repeat(group.blocks)


def _fits(group: ChannelGroup, name: str) -> bool:
    return any(layer == name or layer.startswith(f"{name}.") for layer in group.layers)


def _check_share(where: str, share: Any) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(where, repr(share), "a number in (0, 1]: the share of F's channels that stays")


def _check_names(groups: Sequence[ChannelGroup], names: Collection[str]) -> None:
    for name in names:
        if not any(_fits(group, name) for group in groups):
            known = [layer for group in groups for layer in group.layers]
            raise UserError(
                _WHERE, repr(name), "names of F's layers that can be cut", did_you_mean(name, known)
            )
