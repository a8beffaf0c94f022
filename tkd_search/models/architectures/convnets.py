"""torchvision's ResNet, ShuffleNetV2, EfficientNet and VGG with any width and, except VGG, any depth.

At width 1 and depth 1 all tensors have torchvision's names and shapes, so its weights can be loaded.
:mod:`tkd_search.models.strides` then adapts the strides to small images.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from tkd_search.models.architectures.mobilenet import deeper, divisible
from tkd_search.models.torchvision_compat import torchvision

_RESNET_PLANES = (64, 128, 256, 512)
_SHUFFLENET_CHANNELS = {
    "shufflenet_v2_x0_5": (24, 48, 96, 192, 1024),
    "shufflenet_v2_x1_0": (24, 116, 232, 464, 1024),
    "shufflenet_v2_x1_5": (24, 176, 352, 704, 1024),
    "shufflenet_v2_x2_0": (24, 244, 488, 976, 2048),
}
_SHUFFLENET_REPEATS = (4, 8, 4)
_EFFICIENTNET_SCALES = {
    "efficientnet_b0": (1.0, 1.0, 0.2),
    "efficientnet_b1": (1.0, 1.1, 0.2),
    "efficientnet_b2": (1.1, 1.2, 0.3),
    "efficientnet_b3": (1.2, 1.4, 0.3),
    "efficientnet_b4": (1.4, 1.8, 0.4),
    "efficientnet_b5": (1.6, 2.2, 0.4),
    "efficientnet_b6": (1.8, 2.6, 0.5),
    "efficientnet_b7": (2.0, 3.1, 0.5),
}
_VGG_LAYOUTS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


def resnet(name: str, *, num_classes: int, width: float = 1.0, depth: float = 1.0, **args: Any) -> nn.Module:
    """Build a ResNet, ResNeXt or wide ResNet with stages of ``width`` · (64, 128, 256, 512) planes."""
    with torch.device("meta"):
        pattern = getattr(torchvision.models, name)()
    stages = [pattern.layer1, pattern.layer2, pattern.layer3, pattern.layer4]
    block, counts = type(stages[0][0]), [deeper(len(stage), depth) for stage in stages]
    kind = {"groups": pattern.groups, "width_per_group": pattern.base_width, **args}
    if width == 1.0:
        return torchvision.models.ResNet(block, counts, num_classes=num_classes, **kind)
    return _narrow_resnet(width)(block, counts, num_classes=num_classes, **kind)


def _narrow_resnet(width: float) -> type:
    """Return a subclass of torchvision's ResNet, whose constructor fixes the planes, with scaled planes."""
    base = torchvision.models.ResNet

    class NarrowResNet(base):  # type: ignore[misc, valid-type]
        def _make_layer(
            self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False
        ) -> Any:
            if planes == _RESNET_PLANES[0]:
                self.inplanes = divisible(planes * width)
                self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
                self.bn1 = self._norm_layer(self.inplanes)
            # A group of a bottleneck has planes · base_width / 64 channels, rounded down; this keeps one.
            least = math.ceil(64 / self.base_width)
            layer = super()._make_layer(block, max(least, divisible(planes * width)), blocks, stride, dilate)
            if planes == _RESNET_PLANES[-1]:
                self._last = self.inplanes
            return layer

        def __init__(self, block: Any, layers: Any, num_classes: int, **args: Any) -> None:
            super().__init__(block, layers, num_classes=num_classes, **args)
            self.fc = nn.Linear(self._last, num_classes)

    return NarrowResNet


def shufflenet(
    name: str, *, num_classes: int, width: float = 1.0, depth: float = 1.0, small: bool = False
) -> nn.Module:
    """Build a ShuffleNetV2 (Ma et al. 2018) with ``width`` times the channels of ``name``, rounded to even.

    For ``small`` images the last convolution is scaled too, as in ``mobilenet_v2``.
    """
    base = _SHUFFLENET_CHANNELS[name]
    first, *stages, last = base
    channels = [divisible(first * width), *(divisible(count * width, 2) for count in stages)]
    channels.append(divisible(last * (width if small else max(1.0, width)), 2))
    if width == 1.0:
        channels = list(base)
    repeats = [deeper(count, depth) for count in _SHUFFLENET_REPEATS]
    return torchvision.models.ShuffleNetV2(repeats, channels, num_classes=num_classes)


def efficientnet(
    name: str, *, num_classes: int, width: float = 1.0, depth: float = 1.0, **args: Any
) -> nn.Module:
    """Build EfficientNet b0 to b7 (Tan & Le 2019), its own scales multiplied by ``width`` and ``depth``."""
    own_width, own_depth, dropout = _EFFICIENTNET_SCALES[name]
    blocks, last = torchvision.models.efficientnet._efficientnet_conf(
        name, width_mult=own_width * width, depth_mult=own_depth * depth
    )
    if name[-1] in "567":  # as in torchvision, whose weights for these come from TensorFlow
        args.setdefault("norm_layer", partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
    return torchvision.models.EfficientNet(
        blocks, args.pop("dropout", dropout), last_channel=last, num_classes=num_classes, **args
    )


def vgg(
    name: str, *, num_classes: int, width: float = 1.0, small: bool = False, dropout: float = 0.5
) -> nn.Module:
    """Build VGG (Simonyan & Zisserman 2015) or its ``_bn`` variant; if ``small``, its head reads 2 × 2."""
    layout = torchvision.models.vgg.cfgs[_VGG_LAYOUTS[name.removesuffix("_bn")]]
    scaled = [item if item == "M" else divisible(item * width) for item in layout]
    features = torchvision.models.vgg.make_layers(scaled, batch_norm=name.endswith("_bn"))
    if not small and width == 1.0:
        return torchvision.models.VGG(features, num_classes=num_classes, dropout=dropout)
    with torch.device("meta"):
        net = torchvision.models.VGG(nn.Sequential(), num_classes=num_classes, init_weights=False)
    side, hidden = 2 if small else 7, divisible(4096 * width)
    net.features, net.avgpool = features, nn.AdaptiveAvgPool2d((side, side))
    net.classifier = nn.Sequential(
        nn.Linear(divisible(512 * width) * side * side, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(p=dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(p=dropout),
        nn.Linear(hidden, num_classes),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return net
