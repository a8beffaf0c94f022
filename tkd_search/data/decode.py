"""Decoding of image files into uint8 arrays, also as a program: ``python decode.py``.

The program scans a chunk of a large folder, and can decode it into a file of images (see
:mod:`tkd_search.data.scan_images`). It is a process because Pillow holds Python's lock on small images, so
that threads use one core. It starts fast because this file imports neither torch nor the package.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

DECODE_VERSION = 3
"""Increased when the same file gives other pixels, so that stored scans and images are not reused."""

_EIGHT_BITS, _SIXTEEN_BITS = 255, 65535
_MOST_ELONGATED = 32
"""Longer images, in multiples of their width, lose the ends, which the centre crop leaves out anyway."""
_REDUCING_GAP = 2
"""A JPEG decoder scales an image down to no less than this many times the stored size."""


class DamagedImageError(Exception):
    """An image file cannot be decoded; the message is 'path: reason'."""


class Rows(Protocol):
    """Where decoded images go, by position: an array uint8 [n, C, size, size], or a part of a file."""

    def __setitem__(self, position: int, pixels: np.ndarray, /) -> None:
        """Store one image uint8 [C, size, size]."""
        ...


class FileRows:
    """Rows ``start`` onwards of a ``.npy`` file of images; a :class:`Rows`.

    They are written, not mapped, so that decoded images take no memory of the process.
    """

    def __init__(self, path: str, start: int) -> None:
        images = np.load(path, mmap_mode="r")
        self._row = images[0].nbytes
        self._first = images.offset + start * self._row
        self._file = os.open(path, os.O_WRONLY)

    def __setitem__(self, position: int, pixels: np.ndarray, /) -> None:
        """Write one image."""
        os.pwrite(self._file, np.ascontiguousarray(pixels).data, self._first + position * self._row)

    def close(self) -> None:
        """Flush to the disk and close the file."""
        os.fsync(self._file)
        os.close(self._file)


class Scan(NamedTuple):
    """What a scan of n files found.

    ``content`` are n hashes of pixels (:func:`pixel_hash`), 0 for a broken file. ``broken`` maps the position
    of a file that cannot be decoded to 'path: reason'.
    """

    content: list[int]
    broken: dict[int, str]


def decode(path: str, size: int, channels: int) -> np.ndarray:
    """Return one image as uint8 [C, size, size]: shorter side scaled to ``size``, then a centre crop.

    A JPEG of at least four times the size is scaled down by its decoder first, to no less than twice the
    size, which is several times as fast. EXIF orientation and transparency are not applied, as in
    torchvision's image folders, on which most big models were trained.

    Raises:
        DamagedImageError: not an image, truncated, or of an unsupported pixel type.
    """
    with _opened(path) as image:
        image.draft(None, (_REDUCING_GAP * size, _REDUCING_GAP * size))
        return from_image(image, size, channels)


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


def scan(paths: list[str], size: int, channels: int, rows: Rows | None = None) -> Scan:
    """Decode every file, into ``rows`` where given; broken files are left out."""
    content, broken = [0] * len(paths), {}
    for position, path in enumerate(paths):
        try:
            pixels = decode(path, size, channels)
        except DamagedImageError as error:
            broken[position] = str(error)
            continue
        content[position] = pixel_hash(pixels)
        if rows is not None:
            rows[position] = pixels
    return Scan(content, broken)


def pixel_hash(pixels: np.ndarray) -> int:
    """Return a signed 64-bit hash of an image's pixels, the same for equal images."""
    found = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    return int.from_bytes(found, signed=True)


def read_header(path: str) -> tuple[int, int, bool]:
    """Return width, height and whether the image is grey, from the file's header.

    Raises:
        DamagedImageError: not an image.
    """
    with _opened(path) as image:
        return image.width, image.height, image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def brightest_deep_pixel(path: str) -> int | None:
    """Return the largest pixel of an image of more than 8 bits; None for any other image.

    Raises:
        DamagedImageError: not an image, or truncated.
    """
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            return None
        brightest = int(np.asarray(image).max())
        return None if image.mode == "I" and brightest <= _EIGHT_BITS else brightest


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open an image for a ``with`` block, whose errors become that of a damaged image.

    Raises:
        DamagedImageError: the block failed. Pillow passes on what its decoders raise: of damaged files also
            RuntimeError (AVIF), TypeError (TIFF) and MemoryError.
    """
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:
        # Pillow and the system end their messages with the path.
        reason = str(error).removesuffix(repr(path)).rstrip(": ") or type(error).__name__
        raise DamagedImageError(f"{path}: {reason}") from error


def _to_8_bits(image: Image.Image, channels: int) -> Image.Image:
    """Convert to grey (mode L) for 1 channel, else to RGB; 16-bit grey is scaled to 8 bits.

    Values up to 255 in 32 bits are taken as 8-bit grey.

    Raises:
        ValueError: pixels without a known white level: floats, or integers beyond 16 bits.
    """
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would clip instead of scaling.
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > _SIXTEEN_BITS:
            raise ValueError(f"pixels from {deep.min()} to {deep.max()}; 8 or 16 bits are supported")
        is_8_bits = image.mode == "I" and deep.max() <= _EIGHT_BITS
        image = Image.fromarray((deep if is_8_bits else deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        # Pillow would clip to 0 … 255: an image with pixels in [0, 1] would turn black without an error.
        raise ValueError("floating-point pixels; 8 or 16 bits are supported")
    image.info.pop("transparency", None)  # Pillow warns that it is not applied
    return image.convert("L" if channels == 1 else "RGB")


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to ``size`` and crop the centre."""
    longest = _MOST_ELONGATED * min(image.size)
    if max(image.size) > longest:  # scaled up, a line of 20,000 pixels would take gigabytes
        left, top = (max(0, side - longest) // 2 for side in image.size)
        image = image.crop((left, top, left + min(image.width, longest), top + min(image.height, longest)))
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


def main() -> None:
    """Scan the files named by JSON on standard input; write the :class:`Scan` to standard output as JSON.

    Input: ``paths``, ``size``, ``channels`` and, where the images are kept, ``target``: a ``.npy`` file whose
    rows ``start`` onwards are theirs.
    """
    job = json.load(sys.stdin)
    rows = None if job["target"] is None else FileRows(job["target"], job["start"])
    found = scan(job["paths"], job["size"], job["channels"], rows)
    if rows is not None:
        rows.close()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
