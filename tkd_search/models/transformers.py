"""torchvision's vision transformers with any width and depth, and with patches for small images."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tkd_search.models.mobilenet import deeper
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
    """Side of a patch: the architecture's own, or for small images about an eighth of the side.

    It divides ``size``: of all divisors the one nearest to what is wanted.
    """
    wanted = max(1, size // 8) if small else patch
    divisors = [side for side in range(1, size + 1) if size % side == 0]
    return min(divisors, key=lambda side: (abs(side - wanted), side))


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
    """A ViT (Dosovitskiy et al. 2021) for images of ``size`` pixels.

    ``width`` scales the number of heads, and the hidden width with it; ``depth`` the number of layers.
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
