"""Writes ``MLmodel`` with the python_function flavor, which makes a student's files an MLflow model."""

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
# Not tkd_search itself: MLflow would install it from the public index, where anyone may take the name.
_REQUIREMENTS = ("torch", "torchvision", "safetensors")
_FIGURES = ("bytes", "parameters", "ratio", "val_accuracy", "test_accuracy", "retention")


def write_flavour(target: Path, student: Path, member: FrontMember, run_id: str, time: int) -> list[Path]:
    """Write ``MLmodel`` and the files that MLflow puts beside it; equal arguments give equal files.

    Args:
        target: an empty folder.
        student: the folder of the student, described by its ``student.json``.
        member: the student's figures.
        run_id: the MLflow run whose artifacts they join.
        time: the model's time in milliseconds since 1970.

    Returns:
        The files; MLflow loads the student from the folder that holds them and the student's own files.

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
    with warnings.catch_warnings(
        action="ignore"
    ):  # MLflow warns that there is no input example; the signature is given, so none is needed
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
    """Return the signature: uint8 [B, H, W, C] pixels in, float32 [B, c] class probabilities out."""
    one = description.preprocessing
    pixels = TensorSpec(np.dtype("uint8"), (-1, one.size, one.size, one.channels))
    chances = TensorSpec(np.dtype("float32"), (-1, len(description.classes)), "probabilities")
    return ModelSignature(Schema([pixels]), Schema([chances]))


def metadata(description: StudentDescription, member: FrontMember) -> dict[str, Any]:
    """Return the model's metadata: figures, class names and the version of tkd_search."""
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
    """Return the installed version without its local part (``+cpu``), which no index has."""
    return importlib.metadata.version(name).split("+")[0]
