"""Training images in deterministic augmented views: the same (index, view) is the same image, always.

A bank keeps the big model's features of fixed views, so the student must see those very views. Which shift
or crop a view is, is computed from (seed, index, view) by mixing integers, on the whole batch at once.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tkd_search.data.bundle import Split
from tkd_search.seeds import child_seed

VIEWS_VERSION = 1
"""Counts up when the same (seed, index, view) comes out as another image: stored banks are then stale."""

AUGMENTATIONS = ("none", "shift", "crop_flip")
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number: splitmix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class Normaliser:
    """uint8 pixels → float32 with mean 0 and variance 1 per plane over the training split.

    Args:
        mean: per plane, of values in [0, 1].
        std: likewise, above 0.
        device: where its two vectors live.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        deviation = torch.tensor(std, dtype=torch.float64)
        shape = (1, -1, 1, 1)
        self.scale = (1 / (255 * deviation)).float().reshape(shape).to(device)
        self.offset = (torch.tensor(mean, dtype=torch.float64) / deviation).float().reshape(shape).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 [B, C, H, W] → float32 of the same shape, channels last in memory."""
        # Reordered last: scaling planes that lie interleaved in memory takes three times as long.
        values = pixels.contiguous().float().mul_(self.scale).sub_(self.offset)
        return values.contiguous(memory_format=torch.channels_last)


class AugmentedViews:
    """A training split as ``tkd_search.distill.interfaces.ViewSource``.

    Args:
        split: uint8 images and labels.
        mean: per plane, of values in [0, 1].
        std: likewise.
        views: number of fixed views A ≥ 1, or 0: view ids are then arbitrary seeds ≥ 0.
        augment: ``none`` (every view is the image), ``shift`` (by up to a twelfth of the side, black
            comes in) or ``crop_flip`` (a crop out of the image padded by an eighth of the side, and a flip
            every other time).
        seed: of the views.
        device: where batches are made; the images are moved there once, unless they are streamed.

    View 0 is the image itself, also where ``views`` is 0.
    """

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        views: int,
        augment: str,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise ValueError(f"augment = {augment!r}; allowed: {', '.join(AUGMENTATIONS)}")
        if views < 0:
            raise ValueError(f"views = {views}; allowed: ≥ 0")
        self.device = torch.device(device)
        images = split.images
        self.images = images.to(self.device) if isinstance(images, Tensor) else images
        self.labels = split.labels.to(self.device)
        self.views = views
        self.augment = augment
        self._normalise = Normaliser(mean, std, self.device)
        self._seed = child_seed(seed, "views")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        """Normalised float32 [B, C, H, W], channels last in memory, of ``index`` [B] in ``view`` [B].

        Raises:
            IndexError: a view that does not exist.
        """
        return self._normalise(self.pixels(index, view))

    def pixels(self, index: Tensor, view: Tensor) -> Tensor:
        """The same as uint8, before normalisation."""
        if self.views and len(view) and not 0 <= int(view.min()) <= int(view.max()) < self.views:
            raise IndexError(f"view {int(view.max())} of {self.views}")
        index, view = index.to(self.device), view.to(self.device)
        if isinstance(self.images, Tensor):
            images = self.images[index]
        else:
            images = self.images[index.cpu()].to(self.device)
        if self.augment == "none" or not bool((view > 0).any()):
            return images
        size = images.shape[-1]
        margin = max(1, round(size / (12 if self.augment == "shift" else 8)))
        top, left, flip = self._draw(index, view, margin)
        return _crop(images, margin, top, left, flip)

    def _draw(self, index: Tensor, view: Tensor, margin: int) -> tuple[Tensor, Tensor, Tensor]:
        """Corner of the crop in [0, 2·margin] and whether it is flipped, [B] each; view 0 is the middle."""
        bits = mixed(mixed(view + self._seed) + index)
        span = 2 * margin + 1
        plain = view == 0
        top = torch.where(plain, margin, (bits & 0xFFFFF) % span)
        left = torch.where(plain, margin, (bits >> 20 & 0xFFFFF) % span)
        flip = (bits >> 40 & 1).bool() & ~plain & (self.augment == "crop_flip")
        return top, left, flip


def mixed(number: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 [B]: neighbours become unrelated numbers (Steele et al. 2014)."""
    number = number + _GOLDEN
    number = (number ^ _shifted(number, 30)) * _MIX_1
    number = (number ^ _shifted(number, 27)) * _MIX_2
    return number ^ _shifted(number, 31)


def plain_batches(
    split: Split,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 512,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of a split in order, not augmented: normalised float32 [b, C, H, W] and labels [b]."""
    normalise = Normaliser(mean, std, device)
    for positions in torch.arange(len(split)).split(batch_size):
        yield normalise(split.images[positions].to(device)), split.labels[positions].to(device)


def _shifted(number: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (number >> bits) & ((1 << (64 - bits)) - 1)


def _crop(images: Tensor, margin: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crops [B, C, H, W] of the images padded with black by ``margin``."""
    padded = pad(images, (margin,) * 4)
    if images.device.type == "cpu":
        return _crop_by_slices(padded, images.shape[-1], top, left, flip)
    return _crop_by_index(padded, images.shape[-1], top, left, flip)


def _crop_by_slices(padded: Tensor, size: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """One slice per image: on a CPU three to eight times as fast as one indexing of the whole batch."""
    source = padded.numpy()
    made = np.empty((*source.shape[:2], size, size), np.uint8)
    for row, corner in enumerate(zip(top.tolist(), left.tolist(), flip.tolist(), strict=True)):
        y, x, flipped = corner
        crop = source[row, :, y : y + size, x : x + size]
        made[row] = crop[:, :, ::-1] if flipped else crop
    return torch.from_numpy(made)


def _crop_by_index(padded: Tensor, size: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """All crops by one indexing, without waiting for an accelerator."""
    along = torch.arange(size, device=padded.device)
    columns = left[:, None] + torch.where(flip[:, None], size - 1 - along, along)
    rows = top[:, None] + along
    numbers = torch.arange(len(padded), device=padded.device)[:, None, None]
    planes = padded.permute(0, 2, 3, 1)
    return planes[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
