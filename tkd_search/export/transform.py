"""Turns a picture into a student's input, exactly as in training."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tkd_search.data.decode import DamagedImageError, decode, from_image
from tkd_search.data.views import Normaliser
from tkd_search.errors import UserError
from tkd_search.export.student_description import Preprocessing
from tkd_search.models.image_input import ImageInput, rendering


class Transform:
    """Turns a picture into float32 [C, H, W]; the network takes a batch: ``model(x[None])``.

    A picture is a path, a ``PIL.Image``, a uint8 array [H, W] or [H, W, C], or a uint8 tensor [C, H, W].
    Paths and PIL images may have any size and mode; arrays and tensors must have the network's size and
    channels.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._normalise = Normaliser(preprocessing.mean, preprocessing.std)
        self._stored = preprocessing.stored_size or preprocessing.size
        wanted = ImageInput(size=preprocessing.size, mean=preprocessing.mean, std=preprocessing.std)
        self._render = rendering(replace(wanted, size=self._stored), wanted)

    def __call__(self, picture: Any) -> Tensor:
        """Return one picture as float32 [C, H, W].

        Raises:
            UserError: a file that is not an image, a picture of floats (whose white is unknown), or an array
                of another size or type.
        """
        return self.batch([picture])[0]

    def batch(self, pictures: Iterable[Any]) -> Tensor:
        """Return pictures as float32 [B, C, H, W]; either all files and PIL images, or all arrays.

        Raises:
            UserError: no picture, both kinds; and the errors of a single picture.
        """
        pixels = [self.pixels(picture) for picture in pictures]
        if len({tensor.shape for tensor in pixels}) != 1:
            found = "files or PIL images beside arrays" if pixels else "none"
            raise UserError("images", found, "one or more, all files and PIL images or all arrays")
        images = self._normalise(torch.stack(pixels))
        if self._render is None or images.shape[-1] == self.preprocessing.size:
            return images
        return self._render(images)

    def pixels(self, picture: Any) -> Tensor:
        """Return one picture as uint8 [C, H, W], before normalisation; a file has the stored size."""
        size, channels = self.preprocessing.size, self.preprocessing.channels
        if isinstance(picture, str | Path):
            try:
                return _tensor(decode(str(picture), self._stored, channels))
            except DamagedImageError as error:
                raise UserError(str(picture), str(error), "an image file") from error
        if hasattr(picture, "convert"):
            try:
                return _tensor(from_image(picture, self._stored, channels))
            except ValueError as error:
                raise UserError("image", str(error), "a PIL image of 8 or 16 bits") from error
        allowed = f"uint8 of shape ({channels}, {size}, {size}), a path or a PIL image"
        try:
            tensor = picture if isinstance(picture, Tensor) else _planes(torch.from_numpy(np.array(picture)))
        except (TypeError, ValueError) as error:  # of objects, or lists of unequal lengths
            raise UserError("image", f"{type(picture).__name__} ({error})", allowed) from error
        if tensor.dtype != torch.uint8 or tuple(tensor.shape) != (channels, size, size):
            raise UserError("image", f"{tensor.dtype} of shape {tuple(tensor.shape)}", allowed)
        return tensor

    def __repr__(self) -> str:
        one = self.preprocessing
        return f"Transform({one.size}×{one.size}, {'grey' if one.channels == 1 else 'RGB'})"


def _tensor(planes: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(planes, order="C"))


def _planes(array: Tensor) -> Tensor:
    """Return [H, W] or [H, W, C] as [C, H, W], any other array as it is."""
    if array.dim() == 2:
        return array[None]
    return array.permute(2, 0, 1).contiguous() if array.dim() == 3 else array
