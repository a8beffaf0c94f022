"""Initial weights of a student from a wider, deeper or equal pretrained network.

Every axis takes evenly spaced positions of the pretrained tensor (weight selection: Xu et al., Initializing
models with larger ones, ICLR 2024). Equal axes take equal positions, so the channels that a layer reads are
those that the layer before it writes. Kernels keep their middle, and stacked queries, keys and values take
their positions one by one.
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from tkd_search.distill.load_tensors import load_tensors
from tkd_search.errors import UserError
from tkd_search.models.architectures.timm_networks import converted, is_timm
from tkd_search.models.model_settings import StudentSettings
from tkd_search.models.student import Student
from tkd_search.models.weights import sum_for_grey, unwrapped

_STACKED = re.compile(r"(^|\.)(in_proj_(weight|bias)|qkv\.(weight|bias))$")
LEAST_SHARE = 0.5
"""Share of a student's tensors that must be in the file; fewer are those of another architecture."""


def weights_key(student: StudentSettings) -> str:
    """Return the key under which a job holds the place of a student's weights."""
    return f"{student.name} {student.weights}"


def select_weights(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], leave: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the tensors of ``own`` that ``state`` holds in at least their shape, cut to their shape.

    Tensors that ``state`` lacks, or holds with fewer axes or positions, are not returned.

    Args:
        state: tensors of the pretrained network by name.
        own: tensors of the student by name.
        leave: names that are not returned, such as those of a last layer for other classes.
    """
    return {
        name: _selected(state[name], tensor.shape, 3 if _STACKED.search(name) else 1).to(tensor.dtype)
        for name, tensor in own.items()
        if name in state and name not in leave and _reaches(state[name], tensor)
    }


def start_from(student: Student, state: Mapping[str, Tensor], name: str, *, where: str, source: str) -> int:
    """Give a student the weights of a pretrained network, in place.

    A last layer for another number of classes and tensors that ``state`` lacks keep their random values.

    Args:
        student: the student.
        state: tensors by name; converted by timm's functions for a network of timm.
        name: the student's name in the settings.
        where: key path that errors name.
        source: description of ``state`` for errors.

    Returns:
        The number of tensors that were loaded.

    Raises:
        UserError: ``state`` holds less than ``LEAST_SHARE`` of the student's tensors.
    """
    network = student.model
    own, given = network.state_dict(keep_vars=True), unwrapped(network, state)
    if is_timm(name):
        given = converted(network, given)
    sum_for_grey(own, given)
    chosen = select_weights(given, own, _foreign_head(student, own, given))
    if len(chosen) < LEAST_SHARE * len(own):
        raise UserError(
            where,
            f"{source}, which holds {len(chosen)} of the {len(own)} tensors of {name}",
            "weights of the same architecture, of equal or larger width and depth",
            "drop them for this student, or name another student",
        )
    load_tensors(network, chosen, strict=False)
    return len(chosen)


def _foreign_head(student: Student, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the last layer's tensors if the given ones are for another number of classes."""
    last = student.roles.head or list(own)[-1].rpartition(".")[0]
    names = [name for name in own if name.rpartition(".")[0] == last]
    return [name for name in names if name in given and len(given[name]) != student.roles.classes]


def _reaches(given: Tensor, own: Tensor) -> bool:
    pairs = zip(given.shape, own.shape, strict=False)
    return given.dim() == own.dim() and all(there >= wanted for there, wanted in pairs)


def _selected(given: Tensor, shape: torch.Size, stacked: int) -> Tensor:
    """Return a tensor cut to a shape; its first axis holds so many ``stacked`` tensors."""
    kernel = given.dim() == 4
    for axis, wanted in enumerate(shape):
        there, parts = given.shape[axis], 1 if axis else stacked
        if there == wanted:
            continue
        if kernel and axis >= 2:
            given = given.narrow(axis, (there - wanted) // 2, wanted)
        else:
            within = torch.linspace(0, there // parts - 1, wanted // parts).round().long()
            starts = torch.arange(parts) * (there // parts)
            given = given.index_select(axis, (starts[:, None] + within).flatten())
    return given.detach().clone()
