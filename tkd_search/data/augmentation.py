"""Augmentations beyond crop and flip: resized crops, RandAugment, random erasing.

Images are changed by the functions of ``torchvision.transforms.v2``. What is drawn for an image comes from
``bits``, one integer per image that its seed, view and number determine, so an image does not depend on its
batch, on the global random state or on torchvision's order of draws. All images are uint8 [B, C, H, W].
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from tkd_search.data.view_bits import uniform

_MAGNITUDE = 0.3
"""RandAugment's magnitude 9 of 30."""


def resized_crop(images: Tensor, bits: Tensor) -> Tensor:
    """Return a random part of each image, scaled to its size, flipped with probability 1/2.

    The part has 25 to 100 % of the area and sides in a ratio from 3/4 to 4/3.
    """
    from tkd_search.models.torchvision_compat import image_functions

    crop = image_functions().resized_crop
    size, made = images.shape[-1], torch.empty_like(images)
    boxes = _boxes(bits, size, area=(0.25, 1.0), ratio=4 / 3).tolist()
    for row, (box, flip) in enumerate(zip(boxes, (uniform(bits, 4) < 0.5).tolist(), strict=True)):
        part = crop(images[row], *box, size=[size, size])
        made[row] = part.flip(-1) if flip else part
    return made


def erase(images: Tensor, bits: Tensor, share: float, colour: Sequence[float]) -> Tensor:
    """Fill a box of 2 to 33 % of the area, in a ``share`` of the images, with a colour (Zhong et al. 2020).

    ``colour`` is per plane, of values in [0, 1]. Sides have a ratio from 3/10 to 10/3.
    """
    size = images.shape[-1]
    top, left, height, width = _boxes(bits, size, area=(0.02, 0.33), ratio=10 / 3).unbind(1)
    along, erased = torch.arange(size), uniform(bits, 4) < share
    rows = (along >= top[:, None]) & (along < (top + height)[:, None]) & erased[:, None]
    columns = (along >= left[:, None]) & (along < (left + width)[:, None])
    inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    fill = torch.tensor([round(255 * value) for value in colour], dtype=torch.uint8, device=images.device)
    return torch.where(inside, fill.view(1, -1, 1, 1), images)


def rand_augment(images: Tensor, bits: Tensor, operations: int) -> Tensor:
    """Apply so many random operations of RandAugment to each image, at magnitude 9 (Cubuk et al. 2020).

    Images that drew the same operation are changed at once.
    """
    functions = _functions(images.shape[-1])
    images = images.clone()
    for number in range(operations):
        drawn = (uniform(bits, number) * len(functions)).long()
        for kind in drawn.unique().tolist():
            rows = (drawn == kind).nonzero()[:, 0].to(images.device)
            images[rows] = functions[kind](images[rows])
    return images


def _boxes(bits: Tensor, size: int, *, area: tuple[float, float], ratio: float) -> Tensor:
    """Return top, left, height and width of a box within each image, in pixels: int64 [B, 4].

    Its share of the area and the logarithm of the ratio of its sides, in [1/ratio, ratio], are uniform.
    """
    share = area[0] + (area[1] - area[0]) * uniform(bits, 0)
    stretch = torch.exp(math.log(ratio) * (uniform(bits, 1) - 0.5))
    sides = [(size * share.sqrt() * by).round().long().clamp(1, size) for by in (stretch, 1 / stretch)]
    corners = [
        (uniform(bits, draw) * (size - side + 1)).long() for draw, side in zip((2, 3), sides, strict=True)
    ]
    return torch.stack([*corners, *sides], 1)


def _functions(size: int) -> list[Callable[[Tensor], Tensor]]:
    """Return RandAugment's operations; those with a direction are there once for each."""
    from tkd_search.models.torchvision_compat import image_functions

    v2 = image_functions()
    m, still = _MAGNITUDE, {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    shear, shift = math.degrees(math.atan(0.3 * m)), round(150 / 331 * size * m)
    signed: list[Callable[[Tensor], Tensor]] = []
    for sign in (1, -1):
        signed += [
            partial(v2.affine, **{**still, "shear": [sign * shear, 0.0]}, center=[0, 0]),
            partial(v2.affine, **{**still, "shear": [0.0, sign * shear]}, center=[0, 0]),
            partial(v2.affine, **{**still, "translate": [sign * shift, 0]}),
            partial(v2.affine, **{**still, "translate": [0, sign * shift]}),
            partial(v2.rotate, angle=sign * 30 * m),
            partial(v2.adjust_brightness, brightness_factor=1 + 0.9 * sign * m),
            partial(v2.adjust_saturation, saturation_factor=1 + 0.9 * sign * m),
            partial(v2.adjust_contrast, contrast_factor=1 + 0.9 * sign * m),
            partial(v2.adjust_sharpness, sharpness_factor=1 + 0.9 * sign * m),
        ]
    unsigned: list[Callable[[Tensor], Tensor]] = [
        lambda images: images,
        partial(v2.posterize, bits=8 - round(4 * m)),
        partial(v2.solarize, threshold=255 * (1 - m)),
        v2.autocontrast,
        v2.equalize,
    ]
    return [*signed, *unsigned, *unsigned]
