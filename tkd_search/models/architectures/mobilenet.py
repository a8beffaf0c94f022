"""torchvision's MobileNetV2 and V3 with any width and with strides for small images."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from tkd_search.models.strides import fit_strides
from tkd_search.models.torchvision_compat import torchvision

LAST_CHANNELS = 1280
STAGES = (
    # expansion, channels, blocks, stride: table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_CONV = torchvision.ops.misc.Conv2dNormActivation


def divisible(channels: float, multiple: int = 8) -> int:
    """Round ``channels`` to a positive multiple that is at least 90 % of it (MobileNet's rule)."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


def deeper(count: int, depth: float) -> int:
    """Return ``count · depth`` blocks, rounded up (EfficientNet's rule), at least one."""
    return max(1, math.ceil(count * depth - 1e-9))


def stride_order_for(size: int) -> tuple[int, ...]:
    """Return the order in which MobileNet's five strides are kept for images of ``size`` pixels.

    The earliest strides come first, which is fastest. Images under 12 pixels keep their size in the stem:
    this takes a fifth more time and gives 96 % instead of 88 % on 8 × 8 digits (width 0.25, 20 epochs, two
    seeds).
    """
    return (1, 3, 0, 2, 4) if size < 12 else (0, 1, 2, 3, 4)


def mobilenet_v2(
    *,
    num_classes: int,
    width: float = 1.0,
    depth: float = 1.0,
    size: int = 224,
    small: bool = False,
    last_channels: int | None = None,
    stride_order: Sequence[int] | None = None,
    dropout: float = 0.2,
    round_nearest: int = 8,
) -> nn.Module:
    """Build torchvision's MobileNetV2 (Sandler et al. 2018).

    Args:
        num_classes: number of classes c.
        width: multiplier of all channels. With ``small`` it also scales the last 1280 channels, which
            torchvision does not reduce: at width 0.1 they would take most of the bytes.
        depth: multiplier of the blocks of every stage, rounded up.
        size: side of the images in pixels.
        small: fit the strides to ``size``.
        last_channels: channels d of the last convolution; default: see ``width``.
        stride_order: order in which the five strides (0 to 4) are kept; default with ``small``:
            :func:`stride_order_for`.
        dropout: dropout probability before the classifier.
        round_nearest: channels are multiples of this.
    """
    net = torchvision.models.MobileNetV2(
        num_classes=num_classes,
        width_mult=width,
        inverted_residual_setting=[
            [expansion, channels, deeper(blocks, depth), stride]
            for expansion, channels, blocks, stride in STAGES
        ],
        dropout=dropout,
        round_nearest=round_nearest,
    )
    if small and last_channels is None:
        last_channels = divisible(LAST_CHANNELS * min(1.0, width), round_nearest)
    if last_channels is not None and last_channels != net.last_channel:
        _narrow_tail(net, last_channels)
    if small:
        fit_strides(net, size, order=stride_order_for(size) if stride_order is None else stride_order)
    return net


def mobilenet_v3(
    variant: str,
    *,
    num_classes: int,
    width: float = 1.0,
    size: int = 224,
    small: bool = False,
    stride_order: Sequence[int] | None = None,
    **args: Any,
) -> nn.Module:
    """Build torchvision's MobileNetV3 (Howard et al. 2019), ``variant`` mobilenet_v3_small or _large.

    Arguments are as for :func:`mobilenet_v2`; the width also scales the hidden layer. The last layer reads
    this hidden layer, not a mean over positions, so there are no maps for local teachers.
    """
    blocks, last_channel = torchvision.models.mobilenetv3._mobilenet_v3_conf(variant, width_mult=width)
    net = torchvision.models.MobileNetV3(blocks, last_channel, num_classes=num_classes, **args)
    if small:
        fit_strides(net, size, order=stride_order_for(size) if stride_order is None else stride_order)
    return net


def _narrow_tail(net: Any, channels: int) -> None:
    """Replace the last convolution and the classifier by ones of ``channels``, initialised as before."""
    net.features[-1] = _CONV(net.features[-1][0].in_channels, channels, 1, activation_layer=nn.ReLU6)
    nn.init.kaiming_normal_(net.features[-1][0].weight, mode="fan_out")
    net.classifier[-1] = nn.Linear(channels, net.classifier[-1].out_features)
    nn.init.normal_(net.classifier[-1].weight, 0, 0.01)
    nn.init.zeros_(net.classifier[-1].bias)
    net.last_channel = channels
