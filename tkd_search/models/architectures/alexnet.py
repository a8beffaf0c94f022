"""torchvision's AlexNet of any width, with a stem for small images."""

import math

import torch
from torch import nn

from tkd_search.models.torchvision_compat import torchvision

CONV_CHANNELS = (64, 192, 384, 256, 256)
HIDDEN = 4096
_POOL_AFTER = (0, 1, 4)


def scaled(channels: int, width: float) -> int:
    """Return ``channels · width``, rounded to a multiple of 8 and at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def pools_for(size: int) -> int:
    """Return how many of the three pools reduce ``size`` pixels a side to about 4."""
    return min(3, max(0, round(math.log2(size / 4))))


def alexnet(
    *,
    num_classes: int,
    channels: int = 3,
    size: int = 224,
    width: float = 1.0,
    small: bool = False,
    dropout: float = 0.5,
    batch_norm: bool | None = None,
) -> nn.Module:
    """Build torchvision's AlexNet with channels and hidden layers scaled by ``width``.

    Args:
        num_classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels; sets the number of pools of the small variant.
        width: multiplier of all channels and both hidden layers.
        small: use 3 × 3 convolutions throughout, only as many of the three pools as leave about 4 × 4
            positions, and 2 × 2 positions instead of 6 × 6 as input of the hidden layers.
        dropout: dropout probability before both hidden layers.
        batch_norm: normalise after every convolution; default: in the small variant only. torchvision's
            AlexNet has no normalisation and needs two to three times as many epochs from scratch.
    """
    normalised = small if batch_norm is None else batch_norm
    with torch.device("meta"):  # every layer is replaced below
        net = torchvision.models.AlexNet(num_classes=num_classes, dropout=dropout)
    widths = [scaled(count, width) for count in CONV_CHANNELS]
    hidden, side = scaled(HIDDEN, width), 2 if small else 6
    net.features = _features(channels, widths, pools_for(size) if small else None, normalised)
    net.avgpool = nn.AdaptiveAvgPool2d((side, side))
    net.classifier = nn.Sequential(
        nn.Dropout(p=dropout),
        nn.Linear(widths[-1] * side * side, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(p=dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, num_classes),
    )
    if small:
        _initialise(net)
    return net


def _initialise(net: nn.Module) -> None:
    """Initialise by He's rule; with PyTorch's default, eight layers without normalisation hardly learn."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _features(channels: int, widths: list[int], pools: int | None, batch_norm: bool) -> nn.Sequential:
    """Return the five convolutions; with ``pools`` None they have torchvision's kernels and pools."""
    layers: list[nn.Module] = []
    kernels = [(11, 4, 2), (5, 1, 2)] if pools is None else [(3, 1, 1), (3, 1, 1)]
    kernels += [(3, 1, 1)] * 3
    pooled = _POOL_AFTER if pools is None else _POOL_AFTER[:pools]
    for position, (width, (kernel, stride, padding)) in enumerate(zip(widths, kernels, strict=True)):
        layers.append(nn.Conv2d(channels, width, kernel, stride, padding, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
        if position in pooled:
            layers.append(nn.MaxPool2d(3, 2, 0 if pools is None else 1))
        channels = width
    return nn.Sequential(*layers)
