"""Decoding of image files into uint8 arrays, also as a program: ``python decode.py``.

The program decodes part of a large folder into a file that its parent process maps (see
:mod:`tkd_search.data.image_files`). It is a process because Pillow holds Python's lock on small images, so
that threads use one core. It starts fast because this file imports neither torch nor the package.
"""

import json
import sys

import numpy as np
from PIL import Image

_SIXTEEN_BITS = 65535


class DamagedImageError(Exception):
    """An image file cannot be decoded; the message is 'path: reason'."""


def decode(path: str, size: int, channels: int) -> np.ndarray:
    """Return one image as uint8 [C, size, size]: shorter side scaled to ``size``, then a centre crop.

    EXIF orientation and transparency are not applied, as in torchvision's image folders, on which most big
    models were trained.

    Raises:
        DamagedImageError: not an image, truncated, or of an unsupported pixel type.
    """
    try:
        with Image.open(path) as opened:
            return from_image(opened, size, channels)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DamagedImageError(f"{path}: {error}") from error


def from_image(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return a Pillow image of any size as uint8 [C, size, size]; see :func:`decode`.

    Raises:
        ValueError: pixels of more than 16 bits, or floats.
    """
    converted = _to_8_bits(image, channels)
    array = np.asarray(converted if converted.size == (size, size) else _centre_crop(converted, size))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode_into(rows: np.ndarray, paths: list[str]) -> None:
    """Decode ``paths`` into ``rows`` uint8 [n, C, size, size]."""
    channels, size = rows.shape[1:3]
    for row, path in zip(rows, paths, strict=True):
        row[...] = decode(path, size, channels)


def read_header(path: str) -> tuple[int, int, bool]:
    """Return width, height and whether the image is grey, from the file's header.

    Raises:
        DamagedImageError: not an image.
    """
    try:
        with Image.open(path) as opened:
            return opened.width, opened.height, opened.mode in ("1", "L", "LA") or opened.mode.startswith("I")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DamagedImageError(f"{path}: {error}") from error


def _to_8_bits(image: Image.Image, channels: int) -> Image.Image:
    """Convert to grey (mode L) for 1 channel, else to RGB; 16-bit grey is scaled to 8 bits.

    Raises:
        ValueError: pixels without a known white level: floats, or integers beyond 16 bits.
    """
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would clip instead of scaling.
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > _SIXTEEN_BITS:
            raise ValueError(f"pixels from {deep.min()} to {deep.max()}; 8 or 16 bits are supported")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        # Pillow would clip to 0 … 255: an image with pixels in [0, 1] would turn black without an error.
        raise ValueError("floating-point pixels; 8 or 16 bits are supported")
    return image.convert("L" if channels == 1 else "RGB")


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to ``size`` and crop the centre."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


def main() -> int:
    """Decode the files named by JSON on standard input; write an error to standard output as JSON.

    Input: ``paths``, and rows ``start`` onwards of the ``.npy`` file ``target`` to write them to.
    """
    job = json.load(sys.stdin)
    rows = np.load(job["target"], mmap_mode="r+")[job["start"] : job["start"] + len(job["paths"])]
    try:
        decode_into(rows, job["paths"])
    except DamagedImageError as error:
        json.dump({"damaged": str(error)}, sys.stdout)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
