"""CIFAR's original files are pickles: read their dicts, lists, bytes and byte arrays, and nothing else.

No class of numpy or of anybody is ever built from the file: the three names that such a file may mention are
stand-ins that only take notes. Whatever else it names is refused.
"""

import io
import math
import pickle
from typing import Any

import numpy as np


class UnsafePickleError(pickle.UnpicklingError):
    """The file names something that data has no use for."""


class _Array:
    """Stands in for ``numpy.ndarray``: keeps shape and raw bytes of an array of bytes."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Kind) or not isinstance(raw, bytes | str) or fortran not in (True, False):
            raise UnsafePickleError("an array of something other than bytes")
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise UnsafePickleError(f"an array of shape {shape!r}")
        if math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"{len(data)} bytes for an array of shape {shape}")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Kind:
    """Stands in for ``numpy.dtype``: unsigned bytes alone."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        if code not in ("u1", b"u1", "b1", b"b1"):
            raise UnsafePickleError(f"an array of {code!r}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: of no matter for bytes."""


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise UnsafePickleError("an array of an unknown class")
    return _Array()


def _encode(text: Any, codec: Any = "latin1", *_: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"text in codec {codec!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name, or a refusal."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(f"it names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refused."""
        raise UnsafePickleError("it refers to an object outside the file")


def read_plain_pickle(content: bytes) -> dict[str, Any]:
    """A pickled dict of plain values and arrays of bytes, with text keys.

    Raises:
        pickle.UnpicklingError: damaged, no dict, or (:class:`UnsafePickleError`) more than plain data.
    """
    try:
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except (
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        MemoryError,
        OverflowError,
    ) as error:
        raise pickle.UnpicklingError(f"damaged: {error}") from error
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError(f"a {type(loaded).__name__}, not a dict")
    return {_text(key): _plain(value) for key, value in loaded.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    return [_text(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value
