"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): images of a batch are mixed in pairs."""

import random

import torch
from torch import Tensor


def mixed(images: Tensor, *, mixup: float, cutmix: float, seed: int) -> tuple[Tensor, float]:
    """Mix every image with the one before it in the batch.

    Args:
        images: [B, C, H, W], normalised.
        mixup: α of the Beta distribution of the share of Mixup; 0 is off.
        cutmix: likewise of CutMix. Where both are on, each is chosen for half of the batches.
        seed: determines choice, share and box.

    Returns:
        The mixed images, and the share of the first image in [0, 1]; the second images are
        ``images.roll(1, 0)``.
    """
    draw = random.Random(seed)
    others = images.roll(1, 0)
    if cutmix > 0 and (mixup == 0 or draw.random() < 0.5):
        return _cut(images, others, draw, draw.betavariate(cutmix, cutmix))
    share = draw.betavariate(mixup, mixup)
    return torch.lerp(others, images, share), share


def _cut(images: Tensor, others: Tensor, draw: random.Random, share: float) -> tuple[Tensor, float]:
    """Paste a box of the other images whose area is 1 − share, less what lies outside of the image."""
    height, width = images.shape[-2:]
    (top, bottom), (left, right) = (_edges(draw, side, (1 - share) ** 0.5) for side in (height, width))
    images = images.clone()
    images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def _edges(draw: random.Random, side: int, share: float) -> tuple[int, int]:
    """Return the two edges of a box of ``share``·side pixels around a random pixel, within the image."""
    centre, half = draw.randrange(side), share * side / 2
    return max(0, round(centre - half)), min(side, round(centre + half))
