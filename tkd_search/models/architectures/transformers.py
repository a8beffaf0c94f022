"""torchvision's vision transformers with any width and depth and with patches for small images."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tkd_search.models.architectures.mobilenet import deeper
from tkd_search.models.torchvision_compat import torchvision

_SHAPES: Mapping[str, tuple[int, int, int, int]] = {
    # patch, layers, heads, hidden width
    "vit_b_16": (16, 12, 12, 768),
    "vit_b_32": (32, 12, 12, 768),
    "vit_l_16": (16, 24, 16, 1024),
    "vit_l_32": (32, 24, 16, 1024),
    "vit_h_14": (14, 32, 16, 1280),
}


def patch_for(size: int, patch: int, small: bool) -> int:
    """Return the side of a patch, which divides ``size``.

    It is the divisor nearest to the architecture's own patch or, if ``small``, to an eighth of ``size``.
    """
    target = max(1, size // 8) if small else patch
    divisors = [side for side in range(1, size + 1) if size % side == 0]
    return min(divisors, key=lambda side: (abs(side - target), side))


def vision_transformer(
    name: str,
    *,
    num_classes: int,
    size: int,
    width: float = 1.0,
    depth: float = 1.0,
    small: bool = False,
    **args: Any,
) -> nn.Module:
    """Build a ViT (Dosovitskiy et al. 2021) for images of ``size`` pixels a side.

    ``width`` scales the number of heads and with it the hidden width; ``depth`` scales the number of layers.
    """
    patch, layers, heads, hidden = _SHAPES[name]
    scaled_heads = max(1, round(heads * width))
    scaled_hidden = hidden // heads * scaled_heads
    own = {
        "patch_size": patch_for(size, patch, small),
        "num_layers": deeper(layers, depth),
        "num_heads": scaled_heads,
        "hidden_dim": scaled_hidden,
        "mlp_dim": 4 * scaled_hidden,
    }
    return torchvision.models.VisionTransformer(image_size=size, num_classes=num_classes, **{**own, **args})
