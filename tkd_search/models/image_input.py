"""What a network takes: side and normalisation of its images, and how images of the data set become that."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings

Render = Callable[[Tensor], Tensor]
"""Normalised images of the data set [B, C, H, W] → a network's input [B, C, H', W']."""


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """Square images of ``size`` pixels a side, normalised by ``mean`` and ``std`` per plane.

    Both are of pixel values in [0, 1].
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def big_model_input(settings: BigModelSettings, given: ImageInput) -> ImageInput:
    """Return the input of a big model: its settings, else its library's normalisation, else the data set's.

    Weights of torchvision or timm by name have the normalisation that they were trained with.
    """
    own = _of_weights(settings, given)
    return ImageInput(
        size=settings.input_size or given.size,
        mean=tuple(settings.mean or own.mean),  # a list where the settings were read from JSON
        std=tuple(settings.std or own.std),
    )


def student_input(settings: StudentSettings, big_model: BigModelSettings, given: ImageInput) -> ImageInput:
    """Return the input of a student at ``student.input_size``.

    Its normalisation is that of its weights, the big model's for a cut, and the data set's for others.
    """
    whole = big_model_input(big_model, given) if settings.name == CUT else _of_weights(settings, given)
    return ImageInput(size=settings.input_size or whole.size, mean=whole.mean, std=whole.std)


def _of_weights(settings: BigModelSettings | StudentSettings, given: ImageInput) -> ImageInput:
    """Return the given input with the normalisation of weights that a library has by name."""
    if settings.weights is None:
        return given
    from tkd_search.models.pretrained import normalisation_of  # imports torchvision

    found = normalisation_of(settings.name, settings.weights)
    if found is None:
        return given
    mean, std = (_planes(values, len(given.mean)) for values in found)
    return ImageInput(size=given.size, mean=mean, std=std)


def _planes(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Return one value per plane; grey images have the mean over colours."""
    return values if len(values) == count else (sum(values) / len(values),) * count


def rendering(given: ImageInput, wanted: ImageInput) -> Render | None:
    """Return the function that turns images of one input into another; None where they are the same.

    Images are scaled bilinearly with antialiasing, then normalised anew, so all networks see one view.
    """
    return None if given == wanted else _Rendering(given, wanted)


def rendered(
    batches: Iterable[tuple[Tensor, Tensor]], render: Render | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of (images, labels) with rendered images."""
    for images, labels in batches:
        yield (images if render is None else render(images)), labels


class _Rendering:
    """Scales and normalises images; copies of it share no state."""

    def __init__(self, given: ImageInput, wanted: ImageInput) -> None:
        self._size = wanted.size
        before, after = (torch.tensor([one.mean, one.std], dtype=torch.float64) for one in (given, wanted))
        shape = (1, -1, 1, 1)
        self._scale = (before[1] / after[1]).float().reshape(shape)
        self._offset = ((before[0] - after[0]) / after[1]).float().reshape(shape)

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self._size:
            side = (self._size, self._size)
            images = F.interpolate(images, side, mode="bilinear", align_corners=False, antialias=True)
        if self._scale.device != images.device:  # once: a copy to the device in every step would wait for it
            self._scale, self._offset = self._scale.to(images.device), self._offset.to(images.device)
        return torch.addcmul(self._offset.to(images.dtype), images, self._scale.to(images.dtype))
