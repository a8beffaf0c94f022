"""Image files → uint8 arrays with Pillow. Neither torch nor this package is imported here.

That makes the file a cheap program of its own: ``python decode.py`` decodes a share of a large folder into a
file that its parent maps (see :mod:`tkd_search.data.image_files`), since Pillow's work on small images holds
Python's lock and threads would not use a second core.
"""

import json
import sys

import numpy as np
from PIL import Image

_SIXTEEN_BITS = 65535


class DamagedImageError(Exception):
    """An image file that cannot be decoded; ``str()`` is 'path: reason'."""


def decode(path: str, size: int, channels: int) -> np.ndarray:
    """One image as uint8 [C, size, size]: the shorter side is scaled to ``size``, the middle is cut out.

    Pixels are taken as they are stored: EXIF orientation and transparency are not applied, as in
    torchvision's image folders, for which most big models were trained.

    Raises:
        DamagedImageError: no image, or a truncated one.
    """
    try:
        with Image.open(path) as opened:
            return from_image(opened, size, channels)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DamagedImageError(f"{path}: {error}") from error


def from_image(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """A Pillow image of any size as uint8 [C, size, size], as :func:`decode` does it.

    Raises:
        ValueError: pixels of more than 16 bits, or floats.
    """
    levelled = _levelled(image, channels)
    array = np.asarray(levelled if levelled.size == (size, size) else _fitted(levelled, size))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode_into(rows: np.ndarray, paths: list[str]) -> None:
    """Decode ``paths`` into ``rows`` uint8 [n, C, size, size]."""
    channels, size = rows.shape[1:3]
    for row, path in zip(rows, paths, strict=True):
        row[...] = decode(path, size, channels)


def look(path: str) -> tuple[int, int, bool]:
    """Width, height and whether it is a grey image, from the header.

    Raises:
        DamagedImageError: no image.
    """
    try:
        with Image.open(path) as opened:
            return opened.width, opened.height, opened.mode in ("1", "L", "LA") or opened.mode.startswith("I")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DamagedImageError(f"{path}: {error}") from error


def _levelled(image: Image.Image, channels: int) -> Image.Image:
    """Grey (mode L) for 1 channel, else RGB; 16-bit grey is scaled to 8 bits.

    Raises:
        ValueError: pixels of which nobody can tell what is white: floats, or whole numbers beyond 16 bits.
    """
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would clip instead of scaling.
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > _SIXTEEN_BITS:
            raise ValueError(f"pixels from {deep.min()} to {deep.max()}; 8 or 16 bits are understood")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        # Pillow would clip to 0 … 255: a picture in [0, 1] would come out black, without a word.
        raise ValueError("floating-point pixels; 8 or 16 bits are understood")
    return image.convert("L" if channels == 1 else "RGB")


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """The shorter side scaled to ``size``, the middle cut out."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


def main() -> int:
    """Decode what the order on standard input asks; complain on standard output as JSON."""
    order = json.load(sys.stdin)
    rows = np.load(order["target"], mmap_mode="r+")[order["start"] : order["start"] + len(order["paths"])]
    try:
        decode_into(rows, order["paths"])
    except DamagedImageError as error:
        json.dump({"damaged": str(error)}, sys.stdout)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
