"""The idx format of MNIST: a magic number, the sizes, then bytes; plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from tkd_search.errors import UserError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the array of unsigned bytes in one idx file.

    Args:
        path: the file; gzipped if its name ends in ``.gz``.
        dimensions: 1 for labels, 3 for images.

    Raises:
        UserError: damaged, truncated, or another format; names the file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"it cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise _damaged(path, f"{len(content)} bytes, less than a header")
    if content[0] or content[1] or content[2] != _UNSIGNED_BYTE or content[3] != dimensions:
        raise _damaged(path, f"it begins with {content[:4].hex()}, not {bytes([0, 0, 8, dimensions]).hex()}")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    wanted = math.prod(shape)
    if len(content) - header != wanted:
        sizes = " × ".join(map(str, shape))
        raise _damaged(path, f"{len(content) - header} bytes of data, but sizes {sizes} in the header")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _damaged(path: Path, found: str) -> UserError:
    return UserError(str(path), found, "a complete idx file of unsigned bytes", "download the file again")
