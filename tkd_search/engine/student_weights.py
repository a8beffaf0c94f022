"""Pretrained weights of students: read once by the driver, stored by content, given to workers as places."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.data import DataBundle
from tkd_search.data.networks import student_for
from tkd_search.models.model_settings import StudentSettings
from tkd_search.models.pretrained import named_state, starts_pretrained
from tkd_search.models.weight_selection import start_from, weights_key
from tkd_search.optimize.space import Choice
from tkd_search.storage import remote_folders

WHERE = "student.weights"
"""Key path that errors name."""


def students_with_weights(config: Config) -> tuple[StudentSettings, ...]:
    """Return a student of the middle of the space for every name and weights that a trial may have.

    Students whose weights are ``pretrained`` are left out where their library has none for them.
    """
    space = config.space
    options = {
        key: leaf.options
        for key in ("student.name", WHERE)
        if isinstance(leaf := space.leaves.get(key), Choice)
    }
    points: list[dict[str, Any]] = [{}]
    for key, values in options.items():
        points = [{**point, key: value} for point in points for value in values]
    middle = [0.5] * len(space.leaves)
    found = [config.settings(space.at(middle, point)).student for point in points]
    return tuple(student for student in found if starts_pretrained(student.name, student.weights))


def check_student_weights(config: Config, data: DataBundle) -> tuple[str, ...]:
    """Read all weights of students and load them once; return notes for the user.

    Raises:
        UserError: weights are unknown, cannot be downloaded, or fit no student of their name.
    """
    notes = []
    for student in students_with_weights(config):
        state, source = named_state(student.weights or "", name=student.name, where=WHERE)
        built = student_for(student, config.settings().big_models[0], data)
        loaded = start_from(built, state, student.name, where=WHERE, source=source)
        total = len(built.model.state_dict())
        notes.append(f"{student.name} starts from {source}: {loaded} of {total} tensors (the rest is random)")
    return tuple(notes)


def store_student_weights(config: Config, cache: str) -> dict[str, str]:
    """Store the weights of students by their content, unless they are stored, and return their places by key.

    Raises:
        UserError: weights cannot be read.
    """
    return {
        weights_key(student): _stored(
            named_state(student.weights or "", name=student.name, where=WHERE)[0], cache
        )
        for student in students_with_weights(config)
    }


def _stored(state: Mapping[str, Tensor], cache: str) -> str:
    # Tied tensors and views share memory, which safetensors refuses.
    content = save({name: tensor.clone().contiguous() for name, tensor in state.items()})
    place = storage.below(cache, f"weights-{hashlib.sha256(content).hexdigest()}")
    if not remote_folders.verify_folder(place):
        with remote_folders.write_folder(place) as folder:
            (Path(folder) / "model.safetensors").write_bytes(content)
    return place
