"""Reads the tensors of safetensors and torch files without unpickling code.

Torch files are loaded with ``weights_only=True``; objects of other classes than tensors are replaced by
:class:`Ignored`, so that a checkpoint's options and figures do not matter.
"""

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tkd_search.errors import UserError, first_line

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
"""Suffixes of weights files."""

# A damaged file makes torch's restricted unpickler raise any of these.
_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
_PICKLED_CODE = re.compile(r"GLOBAL (\S+)")
"""Matches the class or function that torch's restricted unpickler names when it refuses to load it."""
_FILLED = re.compile(r"Can only SETITEMS? for .* got <class '[\w.]*\.Ignored (\S+)'>")
"""Matches the class of an :class:`Ignored` object that a pickle fills with items as a dictionary."""
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "model_state_dict", "module", "net")
"""Keys under which training scripts store a state dict; averaged weights come first."""
_BUILTINS = ("builtins", "__builtin__")
_MOST_CLASSES, _DEPTH = 200, 3
"""Most classes that a checkpoint may name; levels of mappings in which a state dict is looked for."""
_log = logging.getLogger(__name__)


class Ignored:
    """Takes the place of an object in a pickle that is no tensor: it accepts any content and keeps none."""

    path = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Ignored":
        """Ignore the arguments."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _PlainDict:
    """Takes the place of a class derived from dict: its objects become dictionaries."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return {}


def read_state(path: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name.

    Raises:
        UserError: the file is missing or damaged, or contains no tensors by name.
    """
    if not path.is_file():
        raise UserError(where, f"{path}, which is not a file", "a .safetensors, .pt, .pth, .bin or .tar file")
    try:
        loaded: Any = load_file(path) if _is_safetensors(path) else _load_torch(path)
    except _UNREADABLE as error:
        raise UserError(
            where,
            f"{path}: {_other_file(path) or _why_unreadable(error)}",
            "an undamaged safetensors file, or a torch file that contains tensors only",
            "save it with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error
    state = _state_in(loaded)
    if state is None:
        hint = "save it with torch.save(model.state_dict(), path)"
        raise UserError(where, f"{path} without a state dict", "a mapping from names to tensors", hint)
    return state


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins with a safetensors header, whatever its suffix."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _other_file(path: Path) -> str:
    """Return what an unreadable file is instead of weights, '' where its first bytes do not tell."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the file, which `git lfs pull` fetches"
    if start.startswith(b"<"):
        return "a web page in place of the file: the download failed"
    return "" if start else "an empty file"


def _why_unreadable(error: BaseException) -> str:
    """Return the error in one line; torch's own message on pickles suggests loading them unsafely."""
    text = str(error).strip()
    if "TorchScript" in text:
        return "a TorchScript archive, not a state dict"
    if isinstance(error, pickle.UnpicklingError):
        if code := _PICKLED_CODE.search(text):
            return f"a pickled module or another object with code ({code[1]}), not a state dict"
        return "a pickle that is damaged or contains more than tensors, not a state dict"
    return first_line(error)


def _load_torch(path: Path) -> Any:
    """Return the plain values and tensors of a torch file, with :class:`Ignored` for everything else.

    Raises:
        UnpicklingError: the file is damaged, is itself an object with code, or names a forbidden module.
    """
    classes: dict[str, type] = {}
    while True:
        try:
            known = torch.serialization.safe_globals([(one, name) for name, one in classes.items()])
            with known, path.open("rb") as file:  # of a path torch would look at the suffix
                loaded = torch.load(file, map_location="cpu", weights_only=True)
            break
        except pickle.UnpicklingError as error:
            named, filled = _PICKLED_CODE.search(str(error)), _FILLED.search(str(error))
            if filled is not None:
                classes[filled[1]] = _PlainDict
            elif named is not None and named[1] not in classes and len(classes) < _MOST_CLASSES:
                classes[named[1]] = type(f"Ignored {named[1]}", (Ignored,), {"path": named[1]})
                if "." not in named[1]:  # torch leaves out the module of a builtin
                    classes |= {f"{module}.{named[1]}": classes[named[1]] for module in _BUILTINS}
            else:
                raise
    if isinstance(loaded, Ignored):
        raise pickle.UnpicklingError(f"GLOBAL {loaded.path}")
    if classes:
        _log.warning("%s: objects that are no tensors are ignored: %s", path, ", ".join(classes))
    return loaded


def _state_in(loaded: Any, depth: int = _DEPTH) -> dict[str, Tensor] | None:
    """Return the state dict in a loaded object, at the top or in a mapping below; None if there is none.

    It is looked for under the keys of ``_WRAPPERS``, then at this level, then in other mappings. The first of
    at least half as many tensors as the largest is taken: a single tensor may be a counter or a score.
    """
    if not isinstance(loaded, Mapping) or not depth:
        return None
    here = {name: one for name, one in loaded.items() if isinstance(name, str) and isinstance(one, Tensor)}
    below = {key: state for key, one in loaded.items() if (state := _state_in(one, depth - 1))}
    wrapped = [below[key] for key in _WRAPPERS if key in below]
    states = [*wrapped, *([here] if here else []), *sorted(below.values(), key=len, reverse=True)]
    most = max(map(len, states), default=0)
    return next((state for state in states if 2 * len(state) >= most), None)
