"""timm's networks by name, ``timm/mobilenetv3_small_050``, with strides or patches for small images.

timm is imported on first use, after torchvision, which it needs.
"""

import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tkd_search.models import torchvision_compat
from tkd_search.models.architectures.transformers import patch_for
from tkd_search.models.strides import fit_strides, small_first_kernel

if TYPE_CHECKING:
    from tkd_search.models.architectures.families import ModelSpec

PREFIX = "timm/"
"""Beginning of the names of timm's networks."""

RESERVED = (
    *("num_classes", "in_chans", "img_size", "device", "dtype"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir"),
    *("features_only", "pruned", "kwargs_filter"),
)
"""Arguments of timm's builders that the data set decides, that load weights, or that give no classifier."""


def is_timm(name: str) -> bool:
    """Return whether a name is that of a network of timm."""
    return name.startswith(PREFIX)


@cache
def timm() -> ModuleType:
    """Import timm."""
    assert torchvision_compat.torchvision  # timm imports torchvision, which may need its missing operators
    import timm

    return timm


@cache
def timm_names() -> tuple[str, ...]:
    """Return the names of timm's networks, with the prefix."""
    return tuple(f"{PREFIX}{name}" for name in timm().list_models())


def pretrained_cfg(name: str) -> Any:
    """Return timm's description of a network's default weights: input size, classifier, first convolution."""
    return timm().get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=False)


def pretrained_tags(name: str) -> tuple[str, ...]:
    """Return the tags of a network's pretrained weights, timm's default first."""
    own = name.removeprefix(PREFIX)
    found = [full.partition(".")[2] for full in timm().list_models(f"{own}.*", pretrained=True)]
    default = pretrained_cfg(name).tag
    return tuple(sorted(found, key=lambda tag: (tag != default, tag)))


def converted(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as timm converts them for a network: names of other projects, position embeddings.

    Embeddings of patches and positions are resampled to the network's patch and image size. Tensors of
    networks that timm does not convert are returned as they are.
    """
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        return state if convert is None else convert(dict(state), network)
    except Exception:  # a file of another network; its tensors are refused when they are loaded
        return state


def build_timm(spec: "ModelSpec") -> nn.Module:
    """Build a network of timm with random weights.

    Networks whose input size is fixed (ViTs) get ``spec.size`` as ``img_size`` and, if they have patches, a
    patch that divides it; ``spec.small`` asks for about eight patches a side. The strides of the others are
    fitted to small images.

    Raises:
        TypeError: the network does not take an argument.
    """
    if pretrained_cfg(spec.name).fixed_input_size:
        return _with_patches(spec)
    net = _created(spec, spec.args)
    if spec.small:
        fit_strides(net, spec.size, channels=spec.channels)
        small_first_kernel(net)
    return net


def _created(spec: "ModelSpec", args: Mapping[str, Any]) -> nn.Module:
    # The entry point, not create_model, which drops arguments that are None.
    build = timm().model_entrypoint(spec.name.removeprefix(PREFIX))
    net: nn.Module = build(num_classes=spec.classes, in_chans=spec.channels, **args)
    return net


def _with_patches(spec: "ModelSpec") -> nn.Module:
    """Build a network of fixed input size, with a patch that fits ``spec.size`` if it has patches."""
    args = {"img_size": spec.size, **spec.args}
    patch = _patch_of(spec)
    if patch is not None and "patch_size" not in args:
        fitting = patch_for(spec.size, patch, spec.small)
        args |= {"patch_size": fitting} if fitting != patch else {}
    return _created(spec, args)


def _patch_of(spec: "ModelSpec") -> int | None:
    """Return the side of the patches of a plain ViT at its own input size; None for other networks."""
    with torch.device("meta"):
        embed = getattr(_created(spec, spec.args), "patch_embed", None)
    side = getattr(embed, "patch_size", None)
    # A patch of 1 lies on the maps of a convolutional stem.
    return side[0] if isinstance(side, tuple) and side[0] == side[-1] > 1 else None
