"""Saves weights, and loads tensors into a network.

The error for tensors that do not fit names those that are missing, unknown or of another shape.
"""

import logging
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tkd_search.distill.load_tensors import load_tensors
from tkd_search.errors import UserError
from tkd_search.models.checkpoint_files import read_state
from tkd_search.models.size import shipping_state

_log = logging.getLogger(__name__)
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_PREFIXES = ("module.", "_orig_mod.", "model.")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_LINEAR = re.compile(r"\.mlp\.linear_([12])\.")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A last layer in a file, for other classes than those of the network.

    Attributes:
        parameters: names of its tensors; empty where the file's last layer fits.
        classes: its number of classes; None where it fits.
    """

    parameters: tuple[str, ...] = ()
    classes: int | None = None


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write the state dict as safetensors without metadata, atomically."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu() for name, tensor in shipping_state(module).items()}
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        save_file(state, part)  # without the copies in memory that write_bytes would need
        part.chmod(0o644)  # safetensors lets the owner alone read it
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


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


def weights_file(weights: str) -> Path | None:
    """Return the absolute path of the file that ``big_model.weights`` names, or None if it names no file."""
    path = Path(weights).expanduser().absolute()
    return path if path.is_file() else None


def fit_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    where: str,
    source: str,
    new_head_for: int | None = None,
) -> Head:
    """Load a state dict strictly, in place.

    Where the network reads grey images and a kernel colour ones, its weights are summed.

    Args:
        module: the network.
        state: tensors by name.
        where: key path or command that errors name.
        source: description of the tensors for errors.
        new_head_for: number of classes c of the network; a last layer for another number of classes is then
            not loaded but left as it is. None: such a layer is an error.

    Returns:
        The last layer that was not loaded.

    Raises:
        UserError: tensors do not fit, are quantised or contain values that are not finite; the error names
            them.
    """
    own = module.state_dict(keep_vars=True)
    given = unwrapped(module, state)
    left_out = len(state) - len(given)
    sum_for_grey(own, given)
    _fill_tied(own, given)
    _fill_counters(own, given)
    head = _foreign_head(own, given, new_head_for)
    given.update({name: own[name] for name in head.parameters})
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    shapes = [name for name in own if name in given and own[name].shape != given[name].shape]
    if missing or unknown or shapes:
        raise _mismatch(own, given, missing, unknown, shapes, where, source)
    _refuse_other_numbers(own, given, where, source)
    _refuse_not_finite(given, where, source)
    load_tensors(module, given)
    if left_out:
        _log.warning("%s: %d tensor(s) that belong to no part of the network are ignored", source, left_out)
    return head


def _refuse_other_numbers(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str, source: str
) -> None:
    """Refuse quantised and packed tensors: copied as floats, int8 weights would lack their scales."""
    kinds = {
        f"{one.device.type} {one.layout} {one.dtype}".replace("torch.", "")
        for name, one in given.items()
        if one.is_meta or (own[name].is_floating_point() and _is_packed(one))
    }
    if kinds:
        found = f"{source} with tensors of the kinds {', '.join(sorted(kinds))}"
        allowed = "dense float16, bfloat16, float32 or float64 weights"
        raise UserError(where, found, allowed, "save the network from before it was quantised or packed")


def _is_packed(tensor: Tensor) -> bool:
    return tensor.dtype not in _FLOATS or tensor.layout != torch.strided


def _refuse_not_finite(given: Mapping[str, Tensor], where: str, source: str) -> None:
    names = [name for name, one in given.items() if one.is_floating_point() and not one.isfinite().all()]
    if names:
        raise UserError(
            where,
            f"{source} with values that are not finite in {_first_names(names)}",
            "finite weights",
            "the training that saved them has diverged: take an earlier checkpoint",
        )


def unwrapped(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes of wrappers, unless the network's own names begin with them.

    The counter of ``torch.optim.swa_utils.AveragedModel`` and the auxiliary classifiers of a GoogLeNet or
    Inception are removed too, and names that torchvision has changed are as it has them now.
    """
    own = module.state_dict(keep_vars=True)
    given = {name: value for name, value in state.items() if name != "n_averaged" or name in own}
    # Wrappers may be in any order: compiled inside DistributedDataParallel or the reverse.
    for prefix in _PREFIXES * len(_PREFIXES):
        if not given.keys() & own.keys() and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    given = given if given.keys() & own.keys() else _part(own, given)
    return {_renamed(name, own): value for name, value in given.items() if not _is_auxiliary(name, own)}


def _renamed(name: str, own: Collection[str]) -> str:
    """Return the name by which torchvision's network has a tensor of one of its older files."""
    now = _LINEAR.sub(lambda found: f".mlp.{3 * int(found[1]) - 3}.", _DENSE.sub(r"\1", name))
    return now if name not in own and now in own else name


def _is_auxiliary(name: str, own: Collection[str]) -> bool:
    return name.startswith(_AUXILIARY) and not any(one.startswith(_AUXILIARY) for one in own)


def _part(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors below the one prefix that has most of the network's names; all where none has half.

    A file may hold a loss or a teacher beside the network, each below a prefix of its own.
    """
    some = next((name for name in own if any(one.endswith(f".{name}") for one in given)), None)
    if some is None:
        return given
    prefixes = {one.removesuffix(some) for one in given if one.endswith(f".{some}")}
    cover = {prefix: sum(f"{prefix}{name}" in given for name in own) for prefix in prefixes}
    best = [prefix for prefix in prefixes if cover[prefix] == max(cover.values())]
    if len(best) > 1 or 2 * cover[best[0]] < len(own):
        return given
    return {name.removeprefix(best[0]): value for name, value in given.items() if name.startswith(best[0])}


def _foreign_head(own: Mapping[str, Tensor], given: Mapping[str, Tensor], classes: int | None) -> Head:
    """Return the last layer if it alone has other shapes, by its number of classes only."""
    other = [name for name in own if name in given and own[name].shape != given[name].shape]
    counts = {given[name].shape[:1] for name in other}
    by_classes = all(
        own[name].shape[:1] == (classes,) and own[name].shape[1:] == given[name].shape[1:] for name in other
    )
    if len(counts) != 1 or not by_classes:
        return Head()
    return Head(parameters=tuple(other), classes=given[other[0]].shape[0])


def sum_for_grey(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> None:
    """Sum kernels over 3 input channels, in ``given``, where the network reads 1.

    The channels of a grey image are equal.
    """
    for name, kernel in given.items():
        reads = own[name].shape[1:2] if name in own and own[name].dim() == 4 else None
        if reads == (1,) and kernel.dim() == 4 and kernel.shape[1] == 3:
            given[name] = kernel.sum(1, keepdim=True)


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


def _listed(names: list[str]) -> str:
    return f"{len(names)} tensor(s): {_first_names(names)}"


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
