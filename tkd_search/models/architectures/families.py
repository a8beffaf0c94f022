"""Builders of torchvision's and timm's networks by name, with width, depth and a stem for small images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tkd_search.models.architectures import alexnet, convnets, mobilenet, timm_networks, transformers
from tkd_search.models.strides import fit_strides, set_input_channels, small_first_kernel
from tkd_search.models.torchvision_compat import torchvision


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Specification of a network for images with ``channels`` channels and ``size`` pixels a side."""

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
    """How networks of a family are built.

    Attributes:
        build: builds one by its specification.
        builder: the function that ``build`` calls with the further arguments; None: torchvision's or timm's.
        width: whether the width can vary.
        depth: whether the depth can vary.
    """

    build: Callable[[ModelSpec], nn.Module]
    builder: Callable[..., nn.Module] | None = None
    width: bool = False
    depth: bool = False


def build_named(spec: ModelSpec) -> nn.Module:
    """Build a network of torchvision or timm by its specification."""
    net = family_of(spec.name).build(spec)
    if spec.small:
        _raise_momentum(net)
    return net


def family_of(name: str) -> Family:
    """Return the family of a name; for names without one, a family that calls torchvision's constructor."""
    for prefix, family in _FAMILIES.items():
        if name == prefix or (prefix.endswith("*") and name.startswith(prefix[:-1])):
            return family
    return Family(_plain)


def known_names(name: str) -> tuple[str, ...]:
    """Return the names of all classifiers of the library of ``name``, timm or torchvision."""
    if timm_networks.is_timm(name):
        return timm_networks.timm_names()
    return tuple(torchvision.models.list_models(module=torchvision.models))


def _plain(spec: ModelSpec) -> nn.Module:
    """Call torchvision's constructor with ``num_classes``; a small stem has lower strides."""
    extra = {"aux_logits": False, "init_weights": True} if spec.name in _WITH_AUXILIARY_LOGITS else {}
    net = getattr(torchvision.models, spec.name)(num_classes=spec.classes, **extra, **spec.args)
    return _fitted(net, spec)


def _raise_momentum(net: nn.Module) -> None:
    """Raise BatchNorm's momentum to 0.1, because lower values are too slow for short trainings."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, _MIN_MOMENTUM)


_MIN_MOMENTUM = 0.1
_WITH_AUXILIARY_LOGITS = ("googlenet", "inception_v3")


def _fitted(net: nn.Module, spec: ModelSpec) -> nn.Module:
    """Adapt strides and input channels of a network built for 224 pixels and 3 channels."""
    if spec.small:
        fit_strides(net, spec.size)
        small_first_kernel(net)
    set_input_channels(net, spec.channels)
    return net


def _alexnet(spec: ModelSpec) -> nn.Module:
    return alexnet.alexnet(
        num_classes=spec.classes,
        channels=spec.channels,
        size=spec.size,
        width=spec.width,
        small=spec.small,
        **spec.args,
    )


def _mobilenet_v2(spec: ModelSpec) -> nn.Module:
    net = mobilenet.mobilenet_v2(
        num_classes=spec.classes,
        width=spec.width,
        depth=spec.depth,
        size=spec.size,
        small=spec.small,
        **spec.args,
    )
    set_input_channels(net, spec.channels)
    return net


def _mobilenet_v3(spec: ModelSpec) -> nn.Module:
    net = mobilenet.mobilenet_v3(
        spec.name,
        num_classes=spec.classes,
        width=spec.width,
        size=spec.size,
        small=spec.small,
        **spec.args,
    )
    set_input_channels(net, spec.channels)
    return net


def _resnet(spec: ModelSpec) -> nn.Module:
    net = convnets.resnet(
        spec.name, num_classes=spec.classes, width=spec.width, depth=spec.depth, **spec.args
    )
    return _fitted(net, spec)


def _shufflenet(spec: ModelSpec) -> nn.Module:
    net = convnets.shufflenet(
        spec.name,
        num_classes=spec.classes,
        width=spec.width,
        depth=spec.depth,
        small=spec.small,
        **spec.args,
    )
    return _fitted(net, spec)


def _efficientnet(spec: ModelSpec) -> nn.Module:
    net = convnets.efficientnet(
        spec.name, num_classes=spec.classes, width=spec.width, depth=spec.depth, **spec.args
    )
    return _fitted(net, spec)


def _vgg(spec: ModelSpec) -> nn.Module:
    net = convnets.vgg(spec.name, num_classes=spec.classes, width=spec.width, small=spec.small, **spec.args)
    return _fitted(net, spec)


def _vision_transformer(spec: ModelSpec) -> nn.Module:
    net = transformers.vision_transformer(
        spec.name,
        num_classes=spec.classes,
        size=spec.size,
        width=spec.width,
        depth=spec.depth,
        small=spec.small,
        **spec.args,
    )
    set_input_channels(net, spec.channels)
    return net


_FAMILIES: dict[str, Family] = {
    "cut": Family(_plain, width=True),  # only its width is asked for: F's own family builds it
    "timm/*": Family(timm_networks.build_timm),
    "alexnet": Family(_alexnet, alexnet.alexnet, width=True),
    "mobilenet_v2": Family(_mobilenet_v2, mobilenet.mobilenet_v2, width=True, depth=True),
    "mobilenet_v3_*": Family(_mobilenet_v3, mobilenet.mobilenet_v3, width=True),
    "resnet*": Family(_resnet, convnets.resnet, width=True, depth=True),
    "resnext*": Family(_resnet, convnets.resnet, width=True, depth=True),
    "wide_resnet*": Family(_resnet, convnets.resnet, width=True, depth=True),
    "shufflenet_v2_*": Family(_shufflenet, convnets.shufflenet, width=True, depth=True),
    "efficientnet_b*": Family(_efficientnet, convnets.efficientnet, width=True, depth=True),
    "vgg*": Family(_vgg, convnets.vgg, width=True),
    "vit_*": Family(_vision_transformer, transformers.vision_transformer, width=True, depth=True),
}
