"""What makes a student's files in MLflow a model: ``MLmodel`` with the flavour python_function."""

import importlib.metadata
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from tkd_search.export.student_description import StudentDescription, read_description
from tkd_search.results.json_values import finite, to_plain
from tkd_search.results.records import FrontMember

LOADER = "tkd_search.export.pyfunc"
# Not tkd_search itself: MLflow would ask the public index for it, where whoever takes the name may answer.
_REQUIREMENTS = ("torch", "torchvision", "safetensors")
_FIGURES = ("bytes", "parameters", "ratio", "val_accuracy", "test_accuracy", "retention")


def write_flavour(target: Path, student: Path, member: FrontMember, run_id: str, time: int) -> list[Path]:
    """Write ``MLmodel`` and what MLflow puts beside it; the same for the same arguments.

    Args:
        target: an empty folder for these files.
        student: the folder of the student, described by its ``student.json``.
        member: the student's figures.
        run_id: the MLflow run whose artifacts they join.
        time: of the model, in milliseconds since 1970.

    Returns:
        The files; MLflow loads the student from the folder in which they lie beside its own.

    Raises:
        UserError: the student's description is missing or damaged.
    """
    description = read_description(student)
    model = Model(
        artifact_path="model",
        run_id=run_id,
        model_uuid=run_id,
        utc_time_created=datetime.fromtimestamp(time / 1000, UTC).replace(tzinfo=None),
        model_size_bytes=member.bytes,
    )
    with warnings.catch_warnings(action="ignore"):  # of no example input: the signature was not guessed
        mlflow.pyfunc.save_model(
            target,
            loader_module=LOADER,
            mlflow_model=model,
            signature=signature(description),
            pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIREMENTS],
            metadata=metadata(description, member),
        )
    return sorted(target.iterdir())


def signature(description: StudentDescription) -> ModelSignature:
    """Pixels as uint8 [B, H, W, C] in, class probabilities as float32 [B, c] out."""
    one = description.preprocessing
    pixels = TensorSpec(np.dtype("uint8"), (-1, one.size, one.size, one.channels))
    chances = TensorSpec(np.dtype("float32"), (-1, len(description.classes)), "probabilities")
    return ModelSignature(Schema([pixels]), Schema([chances]))


def metadata(description: StudentDescription, member: FrontMember) -> dict[str, Any]:
    """What a loaded model knows of its student: figures, class names, the tkd_search that made it."""
    made = description.provenance
    plain = {
        "search": made.get("search"),
        "trial_id": member.trial_id,
        "student": member.student,
        "dataset": made.get("dataset"),
        "tkd_search": made.get("versions", {}).get("tkd_search"),
        "classes": description.classes,
        **{key: getattr(member, key) for key in _FIGURES},
    }
    known: dict[str, Any] = finite(to_plain(plain))
    return known


def _public_version(name: str) -> str:
    """The installed version without its local part (``+cpu``), which no index has."""
    return importlib.metadata.version(name).split("+")[0]
