"""Reads and writes ``student.json``: architecture, preprocessing, classes, figures, provenance."""

import hashlib
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tkd_search
from tkd_search.errors import UserError
from tkd_search.files import write_json
from tkd_search.models.model_settings import CUT, StudentSettings
from tkd_search.results.json_values import finite, from_plain, to_plain

SCHEMA = 1
DESCRIPTION_FILE = "student.json"
WEIGHTS_FILE = "model.safetensors"
CUT_FILE = "cut.json"
"""Of a student cut from F: F's architecture, the removed channels and the shapes that remain."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps from an image to the network's input.

    The shorter side is scaled to ``stored_size`` (None: ``size``) and the middle cut out; ``channels`` 1 is
    grey, 3 is RGB; pixel values are divided by 255, then ``mean`` is subtracted and the rest divided by
    ``std``, per channel; at last the image is scaled to ``size``. EXIF orientation and transparency are not
    applied.
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stored_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class StudentDescription:
    """A student as it ships: architecture, preprocessing, class names, figures, provenance.

    ``figures`` are those of the search (bytes, parameters, ratio, accuracies in [0, 1], latency in
    milliseconds). ``provenance`` names search, data, big model and versions.
    """

    name: str
    trial_id: str
    architecture: StudentSettings
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def write_description(folder: Path, description: StudentDescription) -> Path:
    """Write ``student.json`` beside the weights, atomically; NaN and infinite figures become null.

    The weights must exist: their SHA-256 is part of the provenance.
    """
    plain = finite(to_plain(description))
    plain["provenance"]["weights_sha256"] = sha256(folder / WEIGHTS_FILE)
    write_json(folder / DESCRIPTION_FILE, {"schema": SCHEMA, **plain}, indent=2, durable=True)
    return folder / DESCRIPTION_FILE


def read_description(folder: Path) -> StudentDescription:
    """Return the description of a student from its folder.

    Raises:
        UserError: it is missing, damaged or of another schema.
    """
    path = folder / DESCRIPTION_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["schema"] != SCHEMA:
            raise UserError(f"{path}: schema", repr(plain["schema"]), str(SCHEMA), "update tkd_search")
        return from_plain(StudentDescription, plain)
    except FileNotFoundError:
        hint = "the folder of a student is runs/<name>/students/<trial>"
        raise UserError(str(path), "no such file", "a student's folder", hint) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            str(path), f"a file that is no description of a student ({error})", "student.json"
        ) from error


def read_cut(folder: Path, architecture: StudentSettings) -> dict[str, Any] | None:
    """Return the record of a cut from a student's folder; None for a named architecture.

    Raises:
        UserError: it is missing or damaged.
    """
    if architecture.name != CUT:
        return None
    path = folder / CUT_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            str(path),
            f"a file that cannot be read ({error})",
            f"the {CUT_FILE} written with the student",
            "copy the whole folder of the student",
        ) from error


def versions() -> dict[str, str]:
    """Return the versions of this package, torch and Python."""
    import torch

    return {
        "tkd_search": tkd_search.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
