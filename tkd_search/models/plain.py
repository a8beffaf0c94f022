"""A plain convolutional student with about 24,000 parameters, for microcontrollers and quick trials."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


def plain_cnn(
    num_classes: int, *, widths: Sequence[int] = (16, 32, 64), in_channels: int = 3, stride: int = 2
) -> nn.Module:
    """Build 3 × 3 convolutions with BatchNorm and pooling between them, a spatial mean and a linear layer.

    Use it by its import path: ``student.name: tkd_search.models.plain:plain_cnn``. With the defaults and ten
    classes it has 24,346 parameters; its last map has 4 × 4 positions for images of 32 × 32 pixels.

    Args:
        num_classes: number of classes c.
        widths: channels of each convolution.
        in_channels: channels of the images.
        stride: stride of the first convolution.

    Raises:
        ValueError: ``widths`` is empty.
    """
    if not widths:
        raise ValueError("widths = (); allowed: at least one number of channels")
    layers: list[nn.Module] = []
    before = in_channels
    for i, width in enumerate(widths):
        if i:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        conv = nn.Conv2d(before, width, 3, stride if i == 0 else 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*layers), pool=_SpatialMean(), classifier=nn.Linear(before, num_classes)
        )
    )


class _SpatialMean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))
