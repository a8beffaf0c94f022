"""Whether a cut computes what its network computes when no layer reads the removed channels."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import logits_of
from tkd_search.errors import first_line
from tkd_search.models.cuts.channel_groups import ChannelGroup, UncuttableError
from tkd_search.models.cuts.forward_pass import module_running
from tkd_search.models.module_roles import eval_mode

_TOLERANCE = 1e-6
"""Relative to the largest logit, in float64."""


def check_equivalence(
    network: nn.Module,
    made: nn.Module,
    example: Tensor,
    groups: Sequence[ChannelGroup],
    removed: Mapping[str, list[int]],
) -> None:
    """Run a cut and compare its logits with those of its network whose readers of removed channels are zero.

    Normalisations over channels (LayerNorm, GroupNorm) are left out of both for this. Inside attentions the
    removed rows are zero as well, and queries are scaled to the width of a head that is left.

    Raises:
        UncuttableError: the cut fails, or computes something else.
    """
    ours, theirs = _plain(made), _plain(network)
    example = example.double()
    with torch.no_grad(), eval_mode(ours), module_running(ours) as running:
        try:
            logits = logits_of(ours(example))
        except Exception as error:
            raise UncuttableError(f"{running[-1]}: {first_line(error)}") from error
    for group in groups:
        _mask(theirs.state_dict(), group, removed.get(group.name, []))
    with torch.no_grad(), eval_mode(theirs):
        expected = logits_of(theirs(example))
    if logits.shape != expected.shape or not _close(logits, expected):
        raise UncuttableError("operations that mix up channels: a cut to half computes something else")


def _mask(state: Mapping[str, Tensor], group: ChannelGroup, removed: list[int]) -> None:
    """Set what reads the removed channels of a group to zero; in place."""
    gone = torch.zeros(group.channels + 1, dtype=torch.bool)
    gone[removed] = True
    for one in group.slices:
        tensor = state[one.tensor]
        if one.use == "reads" or group.inner:
            tensor.index_fill_(one.axis, gone[one.roots].nonzero()[:, 0].to(tensor.device), 0)
        if group.inner and one.use == "writes":
            tensor[: group.channels] *= _query_scale(~gone[:-1], group.heads)


def _query_scale(kept: Tensor, heads: int) -> float:
    """Return √(d / d'), where attention divides by the root of the width of a head, d before and d' after."""
    left = kept.view(heads, -1)
    return math.sqrt(left.shape[1] * int(left.any(1).sum()) / int(left.sum()))


def _close(left: Tensor, right: Tensor) -> bool:
    scale = right.abs().max().clamp_min(1e-30)
    return bool(((left - right).abs().max() / scale) < _TOLERANCE)


def _plain(network: nn.Module) -> nn.Module:
    """Return a copy in float64 without normalisations that mix channels."""
    made = copy.deepcopy(network).double()
    for module in made.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.forward = _unchanged  # type: ignore[method-assign, assignment]
    return made


def _unchanged(maps: Tensor, *_: Any) -> Tensor:
    return maps
