"""Saves and loads weights without unpickling code: safetensors, torch files, torchvision's weights.

Torch files are loaded with ``weights_only=True``. The error for a file that does not fit names the tensors
that are missing, unknown or of another shape.
"""

import os
import pickle
import re
import tempfile
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tkd_search.errors import UserError
from tkd_search.models.size import shipping_state
from tkd_search.models.strides import first_conv

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".tar")
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
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def save_weights(module: nn.Module, path: str | Path) -> int:
    """Write the state dict as safetensors without metadata, atomically; return the number of bytes."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu() for name, tensor in shipping_state(module).items()}
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        save_file(state, partial)
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return target.stat().st_size


def load_weights(module: nn.Module, path: str | Path, *, where: str = "weights") -> None:
    """Load a file strictly into a network, in place.

    Args:
        module: the network; the ``.model`` of a :class:`~tkd_search.models.student.Student`.
        path: ``.safetensors``, or ``.pt``/``.pth`` that torch can load with ``weights_only=True``.
        where: key path or command that errors name.

    Raises:
        UserError: the file is missing or damaged, or its tensors do not fit.
    """
    fit_state(module, read_state(Path(path), where), where=where, source=str(path))


def named_state(weights: str, *, name: str, classes: int, where: str) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of ``big_model.weights``: a file, or torchvision's pretrained weights of ``name``.

    Returns:
        The tensors by name, and a description of their source for errors.

    Raises:
        UserError: there is no such file and no such weights, the download fails, or the weights have another
            number of classes.
    """
    path = Path(weights).expanduser()
    if path.suffix in (".safetensors", *_TORCH_SUFFIXES) or path.exists():
        return read_state(path, where), str(path)
    return _pretrained_state(name, weights, classes, where), f"{name} {weights}"


def weights_file(weights: str) -> Path | None:
    """Return the absolute path of the file that ``big_model.weights`` names, or None if it names no file."""
    path = Path(weights).expanduser().absolute()
    return path if path.is_file() else None


def read_state(path: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name.

    Raises:
        UserError: the file is missing or damaged, or contains more than tensors.
    """
    if not path.is_file():
        raise UserError(where, f"{path}, which is not a file", "a .safetensors, .pt or .pth file")
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except _UNREADABLE as error:
        raise UserError(
            where,
            f"{path}: {_why_unreadable(error)}",
            "an undamaged safetensors file, or a torch file that contains tensors only",
            "save it with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error
    state = _unwrapped(loaded)
    if state is None:
        raise UserError(where, f"{path} without a state dict", "a mapping from names to tensors")
    return state


def fit_state(module: nn.Module, state: Mapping[str, Tensor], *, where: str, source: str) -> None:
    """Load a state dict strictly, in place.

    If the first convolution reads grey images, colour weights are summed for it.

    Raises:
        UserError: tensors do not fit; the error names them.
    """
    own = module.state_dict(keep_vars=True)
    given = _summed_for_grey(module, _without_wrapper(state, own))
    _fill_tied(own, given)
    _fill_counters(own, given)
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    shapes = [name for name in own if name in given and own[name].shape != given[name].shape]
    if missing or unknown or shapes:
        raise _mismatch(own, given, missing, unknown, shapes, where, source)
    module.load_state_dict(given, strict=True)


def _why_unreadable(error: BaseException) -> str:
    """Return the error in one line; torch's own message on pickles suggests loading them unsafely."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        if code := _PICKLED_CODE.search(text):
            return f"a pickled module or another object with code ({code[1]}), not a state dict"
        return "a pickle that is damaged or contains more than tensors, not a state dict"
    return text.splitlines()[0] if text else type(error).__name__


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(loaded: Any) -> dict[str, Tensor] | None:
    """Return the state dict in a loaded object, at the top or one level below; None if there is none."""
    if isinstance(loaded, Mapping):
        for key in _WRAPPERS:
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not loaded:
        return None
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        return None
    return dict(loaded)


def _without_wrapper(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from names, unless the network's own names begin with them."""
    given = dict(state)
    # Wrappers may be in any order: compiled inside DistributedDataParallel or the reverse.
    for prefix in _PREFIXES * len(_PREFIXES):
        if not given.keys() & own.keys() and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def _summed_for_grey(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum the first kernel over 3 input channels if the network reads 1: grey images have equal channels."""
    try:
        name = f"{first_conv(module)[0]}.weight"
        own = module.get_parameter(name)
    except (ValueError, AttributeError):
        return state
    kernel = state.get(name)
    if kernel is not None and kernel.dim() == 4 and own.shape[1] == 1 and kernel.shape[1] == 3:
        state[name] = kernel.sum(1, keepdim=True)
    return state


def _fill_tied(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> None:
    """Add the other names of tied tensors, which are stored once by their first name."""
    first: dict[int, str] = {}
    for name, tensor in own.items():
        source = first.setdefault(id(tensor), name)
        if name not in given and source in given:
            given[name] = given[source]


def _fill_counters(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> None:
    """Add the batch counters of batch normalisations if the file has none of them.

    Files from before PyTorch 0.4.1, and files converted from them, lack these counters. PyTorch also keeps
    the network's own values for them.
    """
    counters = [name for name in own if name.rpartition(".")[2] == "num_batches_tracked"]
    if not any(name in given for name in counters):
        given.update({name: own[name] for name in counters})


def _mismatch(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    missing: list[str],
    unknown: list[str],
    shapes: list[str],
    where: str,
    source: str,
) -> UserError:
    last = [name for name in own if own[name].dim() == 2 or name.endswith(".bias")][-2:]
    if shapes and not missing and not unknown and set(shapes) <= set(last):
        found_classes, ours = given[shapes[0]].shape[0], own[shapes[0]].shape[0]
        return UserError(
            where,
            f"{source}: a last layer ({shapes[0]}) for {found_classes} classes",
            f"weights for {ours} classes, the number in the data set",
            "train or fine-tune the model on this data set first, or leave the weights out to train it here",
        )
    found = []
    if missing:
        found.append(f"lacks {_listed(missing)}")
    if unknown:
        found.append(f"has unknown {_listed(unknown)}")
    if shapes:
        described = [f"{name} {list(given[name].shape)} for {list(own[name].shape)}" for name in shapes]
        found.append(f"has other shapes: {_listed(described)}")
    return UserError(
        where,
        f"{source}: it {'; '.join(found)}",
        f"the {len(own)} tensors of this architecture",
        "check name, width, args and stem: only the stem 'original' has torchvision's tensors",
    )


def _listed(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{len(names)} tensor(s): {', '.join(names[:count])}{more}"


def _pretrained_state(name: str, weights: str, classes: int, where: str) -> dict[str, Tensor]:
    from tkd_search.models.torchvision_compat import torchvision

    try:
        choices = torchvision.models.get_model_weights(name)
        entry = choices[weights.rpartition(".")[2]]
    except (KeyError, ValueError) as error:
        names = _weight_names(torchvision, name)
        raise UserError(
            where, repr(weights), f"a weights file, or weights of torchvision for {name}: {names or 'none'}"
        ) from error
    found_classes = len(entry.meta.get("categories") or ())
    if found_classes and found_classes != classes:
        raise UserError(
            where,
            f"{name} {weights}: {found_classes} classes",
            f"weights for {classes} classes, the number in the data set",
            "train or fine-tune the model on this data set first, or leave the weights out to train it here",
        )
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            where,
            f"{entry.url}: {error}",
            "a download with the right checksum",
            f"without internet access, copy {Path(entry.url).name} into {torch.hub.get_dir()}/checkpoints",
        ) from error


def _weight_names(torchvision: Any, name: str) -> str:
    try:
        return ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
    except ValueError:
        return ""
