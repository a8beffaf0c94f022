"""Restricted unpickler for CIFAR's original files: dicts, lists, bytes and byte arrays, nothing else.

No class named in the file is ever built: the names that such a file may contain are mapped to stand-ins that
only record data. Any other name is refused.
"""

import io
import math
import pickle
from typing import Any

import numpy as np


class UnsafePickleError(pickle.UnpicklingError):
    """The file names a class or function that plain data does not need."""


class _Array:
    """Stand-in for ``numpy.ndarray``: an array of bytes."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Dtype) or not isinstance(raw, bytes | str) or fortran not in (True, False):
            raise UnsafePickleError("an array of something other than bytes")
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise UnsafePickleError(f"an array of shape {shape!r}")
        if math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"{len(data)} bytes for an array of shape {shape}")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stand-in for ``numpy.dtype``: bytes only."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        if code not in ("u1", b"u1", "b1", b"b1"):
            raise UnsafePickleError(f"an array of {code!r}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise UnsafePickleError("an array of an unknown class")
    return _Array()


def _encode(text: Any, codec: Any = "latin1", *_: Any) -> bytes:
    """Decode bytes as pickle protocol 2 writes them: as latin-1 text."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"text in codec {codec!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name, or refuse it."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(f"it names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside the file."""
        raise UnsafePickleError("it refers to an object outside the file")


def read_plain_pickle(content: bytes) -> dict[str, Any]:
    """Return a pickled dict of plain values and arrays of bytes, with text keys.

    Raises:
        pickle.UnpicklingError: damaged, or not a dict.
        UnsafePickleError: more than plain data.
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
