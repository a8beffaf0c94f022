"""Weights in and out, without ever unpickling: safetensors, ``torch.load(weights_only=True)``, torchvision's.

A file that does not fit says which tensors are missing, unknown or of another shape.
"""

import hashlib
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
# Rubbish makes torch's restricted unpickler stumble in more ways than one.
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
"""What torch's restricted unpickler calls a class or function that it does not load."""
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def save_weights(module: nn.Module, path: str | Path) -> int:
    """Write the state dict as safetensors without metadata, whole or not at all; returns bytes written."""
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
    """Load a file into a plain network, strictly; in place.

    Args:
        module: the network (of a :class:`~tkd_search.models.student.Student`, its ``.model``).
        path: ``.safetensors``, or ``.pt``/``.pth`` that torch can load with ``weights_only=True``.
        where: key path or command that errors name.

    Raises:
        UserError: no such file, damaged, or it does not fit (which tensors).
    """
    fit_state(module, read_state(Path(path), where), where=where, source=str(path))


def weights_digest(module: nn.Module) -> str:
    """A hash of names, shapes, types and values of the state dict, the same on every device."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(shipping_state(module).items()):
        flat = tensor.cpu().contiguous()
        state.update(f"{name}:{flat.dtype}:{tuple(flat.shape)};".encode())
        state.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def named_state(weights: str, *, name: str, classes: int, where: str) -> tuple[dict[str, Tensor], str]:
    """What ``big_model.weights`` names: a file, or one of torchvision's pretrained weights of ``name``.

    Returns:
        The tensors by name, and what to call them.

    Raises:
        UserError: neither a file nor such weights, no network, or weights of other classes.
    """
    path = Path(weights).expanduser()
    if path.suffix in (".safetensors", *_TORCH_SUFFIXES) or path.exists():
        return read_state(path, where), str(path)
    return _pretrained_state(name, weights, classes, where), f"{name} {weights}"


def weights_file(weights: str) -> Path | None:
    """The absolute path of the file that ``big_model.weights`` names, None where it names no file."""
    path = Path(weights).expanduser().absolute()
    return path if path.is_file() else None


def read_state(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name.

    Raises:
        UserError: missing or damaged file, or one that holds more than tensors.
    """
    if not path.is_file():
        raise UserError(where, f"{path}, which is no file", "a .safetensors, .pt or .pth file")
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except _UNREADABLE as error:
        raise UserError(
            where,
            f"{path}: {_why_unreadable(error)}",
            "a whole safetensors file, or a torch file that holds tensors alone",
            "save it with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error
    state = _unwrapped(loaded)
    if state is None:
        raise UserError(where, f"{path} without a state dict", "a mapping from names to tensors")
    return state


def fit_state(module: nn.Module, state: Mapping[str, Tensor], *, where: str, source: str) -> None:
    """Load a state dict strictly; colour weights are summed for a first convolution that reads grey images.

    Raises:
        UserError: what does not fit, by name.
    """
    own = module.state_dict(keep_vars=True)
    given = _grey(module, _without_wrapper(state, own))
    _fill_tied(own, given)
    _fill_counters(own, given)
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    shapes = [name for name in own if name in given and own[name].shape != given[name].shape]
    if missing or unknown or shapes:
        raise _mismatch(own, given, missing, unknown, shapes, where, source)
    module.load_state_dict(given, strict=True)


def _why_unreadable(error: BaseException) -> str:
    """In a line; torch's own words on pickles are about how to load them all the same."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        if code := _PICKLED_CODE.search(text):
            return f"a whole pickled module, or something else that holds code ({code[1]}), not a state dict"
        return "a pickle that is damaged or holds more than tensors, not a state dict"
    return text.splitlines()[0] if text else type(error).__name__


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(loaded: Any) -> dict[str, Tensor] | None:
    """The state dict in what was loaded: itself or one level down."""
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
    """The state without the prefixes of wrappers, unless the network's own names begin with them."""
    given = dict(state)
    # Wrappers come in any order: compiled inside DistributedDataParallel, or the other way round.
    for prefix in _PREFIXES * len(_PREFIXES):
        if not given.keys() & own.keys() and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def _grey(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum a 3-plane first kernel over its planes where the network reads one: grey = equal planes."""
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
    """A tied tensor is stored once, under its first name: give it its other names back."""
    first: dict[int, str] = {}
    for name, tensor in own.items():
        source = first.setdefault(id(tensor), name)
        if name not in given and source in given:
            given[name] = given[source]


def _fill_counters(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> None:
    """Batch normalisations counted no batches before PyTorch 0.4.1.

    Files from then (and their descendants) lack the counters, which nothing here reads; PyTorch takes them
    as they are.
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
        theirs, ours = given[shapes[0]].shape[0], own[shapes[0]].shape[0]
        return UserError(
            where,
            f"{source}: a last layer ({shapes[0]}) of {theirs} classes",
            f"weights of {ours} classes, as the data set has",
            "train or fine-tune the model on this data set first, or leave the weights out to train it here",
        )
    found = []
    if missing:
        found.append(f"lacks {_some(missing)}")
    if unknown:
        found.append(f"has unknown {_some(unknown)}")
    if shapes:
        described = [f"{name} {list(given[name].shape)} for {list(own[name].shape)}" for name in shapes]
        found.append(f"has other shapes: {_some(described)}")
    return UserError(
        where,
        f"{source}: it {'; '.join(found)}",
        f"the {len(own)} tensors of this very architecture",
        "check name, width, args and stem: small stems differ from torchvision's, 'original' is the same",
    )


def _some(names: list[str], count: int = 3) -> str:
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
            where, repr(weights), f"a weights file, or of torchvision for {name}: {names or 'none'}"
        ) from error
    theirs = len(entry.meta.get("categories") or ())
    if theirs and theirs != classes:
        raise UserError(
            where,
            f"{name} {weights}: {theirs} classes",
            f"weights of {classes} classes, as the data set has",
            "train or fine-tune the model on this data set first, or leave the weights out to train it here",
        )
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            where,
            f"{entry.url}: {error}",
            "a download with the right checksum",
            f"without network: put {Path(entry.url).name} into {torch.hub.get_dir()}/checkpoints",
        ) from error


def _weight_names(torchvision: Any, name: str) -> str:
    try:
        return ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
    except ValueError:
        return ""
