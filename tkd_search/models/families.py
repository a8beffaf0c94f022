"""Which rule builds which network: names of torchvision with a width, a depth and a stem for small images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tkd_search.models import alexnet, convnets, mobilenet, transformers
from tkd_search.models.strides import fit_strides, set_input_channels, small_first_kernel
from tkd_search.models.torchvision_compat import torchvision


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a builder: ``classes`` c; images of ``channels`` planes and ``size`` pixels a side."""

    name: str
    classes: int
    channels: int
    size: int
    width: float = 1.0
    depth: float = 1.0
    small: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A builder and what it can vary."""

    build: Callable[[Request], nn.Module]
    width: bool = False
    depth: bool = False


def build_torchvision(request: Request) -> nn.Module:
    """A network of torchvision, adapted to what is asked."""
    net = family_of(request.name).build(request)
    if request.small:
        _quicken_statistics(net)
    return net


def family_of(name: str) -> Family:
    """The family a torchvision name belongs to; names without a rule get torchvision's own constructor."""
    for prefix, family in _FAMILIES.items():
        if name == prefix or (prefix.endswith("*") and name.startswith(prefix[:-1])):
            return family
    return Family(_plain)


def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classifiers."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def _plain(request: Request) -> nn.Module:
    """The constructor of torchvision with ``num_classes``; small stems by lowering its strides."""
    extra = {"aux_logits": False, "init_weights": True} if request.name in _WITH_AUXILIARIES else {}
    net = getattr(torchvision.models, request.name)(num_classes=request.classes, **extra, **request.args)
    return _fitted(net, request)


def _quicken_statistics(net: nn.Module) -> None:
    """Let BatchNorm forget within tens of steps; some of torchvision's remember thousands."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, _MOMENTUM)


_MOMENTUM = 0.1
_WITH_AUXILIARIES = ("googlenet", "inception_v3")


def _fitted(net: nn.Module, request: Request) -> nn.Module:
    """Adapt strides and input planes of a network made for 224 pixels and 3 planes."""
    if request.small:
        fit_strides(net, request.size)
        small_first_kernel(net)
    set_input_channels(net, request.channels)
    return net


def _alexnet(request: Request) -> nn.Module:
    return alexnet.alexnet(
        num_classes=request.classes,
        channels=request.channels,
        size=request.size,
        width=request.width,
        small=request.small,
        **request.args,
    )


def _mobilenet_v2(request: Request) -> nn.Module:
    net = mobilenet.mobilenet_v2(
        num_classes=request.classes,
        width=request.width,
        depth=request.depth,
        size=request.size,
        small=request.small,
        **request.args,
    )
    set_input_channels(net, request.channels)
    return net


def _mobilenet_v3(request: Request) -> nn.Module:
    net = mobilenet.mobilenet_v3(
        request.name,
        num_classes=request.classes,
        width=request.width,
        size=request.size,
        small=request.small,
        **request.args,
    )
    set_input_channels(net, request.channels)
    return net


def _resnet(request: Request) -> nn.Module:
    net = convnets.resnet(
        request.name, num_classes=request.classes, width=request.width, depth=request.depth, **request.args
    )
    return _fitted(net, request)


def _shufflenet(request: Request) -> nn.Module:
    net = convnets.shufflenet(
        request.name,
        num_classes=request.classes,
        width=request.width,
        depth=request.depth,
        small=request.small,
        **request.args,
    )
    return _fitted(net, request)


def _efficientnet(request: Request) -> nn.Module:
    net = convnets.efficientnet(
        request.name, num_classes=request.classes, width=request.width, depth=request.depth, **request.args
    )
    return _fitted(net, request)


def _vgg(request: Request) -> nn.Module:
    net = convnets.vgg(
        request.name, num_classes=request.classes, width=request.width, small=request.small, **request.args
    )
    return _fitted(net, request)


def _vision_transformer(request: Request) -> nn.Module:
    net = transformers.vision_transformer(
        request.name,
        num_classes=request.classes,
        size=request.size,
        width=request.width,
        depth=request.depth,
        small=request.small,
        **request.args,
    )
    set_input_channels(net, request.channels)
    return net


_FAMILIES: dict[str, Family] = {
    "alexnet": Family(_alexnet, width=True),
    "mobilenet_v2": Family(_mobilenet_v2, width=True, depth=True),
    "mobilenet_v3_*": Family(_mobilenet_v3, width=True),
    "resnet*": Family(_resnet, width=True, depth=True),
    "resnext*": Family(_resnet, width=True, depth=True),
    "wide_resnet*": Family(_resnet, width=True, depth=True),
    "shufflenet_v2_*": Family(_shufflenet, width=True, depth=True),
    "efficientnet_b*": Family(_efficientnet, width=True, depth=True),
    "vgg*": Family(_vgg, width=True),
    "vit_*": Family(_vision_transformer, width=True, depth=True),
}
