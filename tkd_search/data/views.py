"""Deterministic augmented views of training images: (seed, index, view) determines the image.

A bank holds the big model's features of fixed views, so the student must see the same views. Shift, crop and
flip are computed from (seed, index, view) by mixing integers, for a whole batch at once.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tkd_search.data.augmentation import erase, rand_augment, resized_crop
from tkd_search.data.bundle import Split
from tkd_search.data.view_bits import splitmix64
from tkd_search.distill.training.read_ahead import read_ahead
from tkd_search.seeds import child_seed

VIEWS_VERSION = 1
"""Increased when the same (seed, index, view) gives another image, so that stored banks are not reused."""

AUGMENTATIONS = ("none", "shift", "crop_flip", "resized_crop")
_RAND_AUGMENT, _ERASING = 1, 2
"""Streams of random bits beside that of crops."""


class Normaliser:
    """Normalises uint8 pixels to float32 with mean 0 and variance 1 per plane over the training split.

    Args:
        mean: per plane, of values in [0, 1].
        std: likewise, > 0.
        device: device of the pixels.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        deviation = torch.tensor(std, dtype=torch.float64)
        shape = (1, -1, 1, 1)
        self.scale = (1 / (255 * deviation)).float().reshape(shape).to(device)
        self.offset = (torch.tensor(mean, dtype=torch.float64) / deviation).float().reshape(shape).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 [B, C, H, W] to float32 of the same shape, channels last in memory."""
        # Reordered last: scaling in channels-last memory takes three times as long.
        values = pixels.contiguous().float().mul_(self.scale).sub_(self.offset)
        return values.contiguous(memory_format=torch.channels_last)


class AugmentedViews:
    """A training split as ``tkd_search.distill.interfaces.ViewSource``.

    Args:
        split: uint8 images and labels.
        mean: per plane, of values in [0, 1].
        std: likewise.
        views: number of fixed views A ≥ 1; 0: a view is any integer ≥ 0.
        augment: ``none`` (every view is the image), ``shift`` (by up to 1/12 of the side, filled with black)
            ``crop_flip`` (a crop of the image padded by 1/8 of the side, flipped with probability 1/2) or
            ``resized_crop`` (see :mod:`tkd_search.data.augmentation`, as for the next two).
        randaugment: number of RandAugment's operations.
        erasing: share of the views in which a box is filled with the mean colour.
        seed: seed of the views.
        device: device of the batches; images that are not streamed are moved there once.

    View 0 is the image itself, also with ``views`` = 0.
    """

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        views: int,
        augment: str,
        randaugment: int = 0,
        erasing: float = 0.0,
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
        self.read = None if isinstance(images, Tensor) else self._read
        self.labels = split.labels.to(self.device)
        self.views = views
        self.augment, self.randaugment, self.erasing = augment, randaugment, erasing
        self._mean = tuple(mean)
        self._normalise = Normaliser(mean, std, self.device)
        self._seed = child_seed(seed, "views")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, view: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return images ``index`` [B] in views ``view`` [B]: normalised float32 [B, C, H, W], channels last.

        ``stored`` is what :attr:`read` returned for ``index``, where that was called.

        Raises:
            IndexError: a view outside [0, A).
        """
        return self._normalise(self.pixels(index, view, stored))

    def pixels(self, index: Tensor, view: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the same as :meth:`batch` before normalisation: uint8 [B, C, H, W]."""
        if self.views and len(view) and not 0 <= int(view.min()) <= int(view.max()) < self.views:
            raise IndexError(f"view {int(view.max())} of {self.views}")
        index, view = index.to(self.device), view.to(self.device)
        if isinstance(self.images, Tensor):
            images = self.images[index]
        else:
            images = (self._read(index) if stored is None else stored).to(self.device, non_blocking=True)
        more = self.augment == "resized_crop" or self.randaugment > 0 or self.erasing > 0
        if (self.augment == "none" and not more) or not bool((view > 0).any()):
            return images
        if self.augment in ("shift", "crop_flip"):
            margin = max(1, round(images.shape[-1] / (12 if self.augment == "shift" else 8)))
            images = _crop(images, margin, *self._draw(index, view, margin))
        if more:
            rows = (view > 0).nonzero()[:, 0]
            images = images.clone()
            images[rows] = self._augmented(images[rows], self._bits(index[rows], view[rows]).cpu())
        return images

    def _augmented(self, images: Tensor, bits: Tensor) -> Tensor:
        if self.augment == "resized_crop":
            images = resized_crop(images, bits)
        if self.randaugment:
            images = rand_augment(images, splitmix64(bits + _RAND_AUGMENT), self.randaugment)
        if self.erasing:
            images = erase(images, splitmix64(bits + _ERASING), self.erasing, self._mean)
        return images

    def _bits(self, index: Tensor, view: Tensor) -> Tensor:
        return splitmix64(splitmix64(view + self._seed) + index)

    def _read(self, index: Tensor) -> Tensor:
        """Return uint8 [B, C, H, W] of a store in main memory, pinned where they go to a GPU; thread-safe."""
        images = self.images[index.cpu()]
        return images.pin_memory() if self.device.type == "cuda" else images

    def _draw(self, index: Tensor, view: Tensor, margin: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return top and left of the crop in [0, 2·margin] and its flip, [B] each; view 0 is centred."""
        bits = self._bits(index, view)
        span = 2 * margin + 1
        plain = view == 0
        top = torch.where(plain, margin, (bits & 0xFFFFF) % span)
        left = torch.where(plain, margin, (bits >> 20 & 0xFFFFF) % span)
        flip = (bits >> 40 & 1).bool() & ~plain & (self.augment == "crop_flip")
        return top, left, flip


def plain_batches(
    split: Split,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of a split in order, not augmented: normalised float32 [b, C, H, W] and labels [b].

    ``part`` (number, count) takes every count-th batch, from batch ``number`` on. Images that are not in
    memory are read ahead.
    """
    normalise, images = Normaliser(mean, std, device), split.images
    batches = torch.arange(len(split)).split(batch_size)[part[0] :: part[1]]
    for positions, stored in read_ahead(batches, None if isinstance(images, Tensor) else images.__getitem__):
        pixels = images[positions] if stored is None else stored
        yield normalise(pixels.to(device)), split.labels[positions].to(device)


def _crop(images: Tensor, margin: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Return crops [B, C, H, W] of the images padded with black by ``margin``."""
    padded = pad(images, (margin,) * 4)
    if images.device.type == "cpu":
        return _crop_by_slices(padded, images.shape[-1], top, left, flip)
    return _crop_by_index(padded, images.shape[-1], top, left, flip)


def _crop_by_slices(padded: Tensor, size: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crop by one slice per image; on a CPU three to eight times as fast as :func:`_crop_by_index`."""
    source = padded.numpy()
    made = np.empty((*source.shape[:2], size, size), np.uint8)
    for row, corner in enumerate(zip(top.tolist(), left.tolist(), flip.tolist(), strict=True)):
        y, x, flipped = corner
        crop = source[row, :, y : y + size, x : x + size]
        made[row] = crop[:, :, ::-1] if flipped else crop
    return torch.from_numpy(made)


def _crop_by_index(padded: Tensor, size: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crop by one indexing of the whole batch, without synchronising with the accelerator."""
    along = torch.arange(size, device=padded.device)
    columns = left[:, None] + torch.where(flip[:, None], size - 1 - along, along)
    rows = top[:, None] + along
    numbers = torch.arange(len(padded), device=padded.device)[:, None, None]
    planes = padded.permute(0, 2, 3, 1)
    return planes[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
