"""Groups of channels that a cut removes together: names of tensors, axes and indices, as plain values."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Use = Literal["writes", "reads", "each"]


class UncuttableError(ValueError):
    """The channels of a network cannot be followed, or a layer's cannot be removed; the message names it."""


@dataclass(frozen=True)
class Slice:
    """One axis of one tensor that a group of channels runs along.

    ``roots`` int64 [length of the axis]: the channel of the group that each position belongs to, -1 for
    positions of other groups (after a concatenation). ``use``: whether the layer writes these channels, reads
    them, or treats each by itself.
    """

    tensor: str
    axis: int
    roots: Tensor
    use: Use


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together, in every tensor that holds them.

    Attributes:
        name: the first layer that writes them.
        channels: how many there are.
        slices: the axes that hold them.
        layers: all layers that write them.
        blocks: equal parts from which the same positions are removed (convolutions with groups).
        heads: heads of the self-attentions that read or hold them; 0 for none. Their channels are then kept
            as :func:`tkd_search.models.cuts.attention.kept_head_width` counts them.
        inner: whether they are the dimensions inside one attention, which stay or go head by head.
        side: side of the smallest map that they had in the trace; it orders stages.
    """

    name: str
    channels: int
    slices: tuple[Slice, ...]
    layers: tuple[str, ...]
    blocks: int = 1
    heads: int = 0
    inner: bool = False
    side: int = 1
