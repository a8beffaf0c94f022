"""Loads a shipped student as a network and its transform."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tkd_search.errors import UserError
from tkd_search.export.student_description import (
    WEIGHTS_FILE,
    StudentDescription,
    read_cut,
    read_description,
    sha256,
)
from tkd_search.export.transform import Transform
from tkd_search.formats import unpack
from tkd_search.models import build_student


def load(path: str | Path, *, trust: bool = False) -> tuple[nn.Module, Transform]:
    """Load a student from its folder.

    Args:
        path: folder with ``model.safetensors`` and ``student.json`` (``cut.json`` too for a cut from F),
            or one of these files.
        trust: whether an architecture that is a ``package.module:function`` is imported and called; the
            description of a student from someone else could name any function.

    Returns:
        The network, in eval mode on the CPU (normalised images [B, C, H, W] → logits [B, c]), and the
        transform that makes its input from a picture.

    Raises:
        UserError: a file is missing or damaged, the weights are not those in the description, or the
            description names code without ``trust``.

    Example::

        model, transform = tkd_search.load("runs/digits/students/t0012")
        model(transform("seven.png")[None]).argmax(1)
    """
    folder = student_folder(path)
    description = read_description(folder)
    return network(folder, description, trust=trust), Transform(description.preprocessing)


def network(folder: Path, description: StudentDescription, *, trust: bool = False) -> nn.Module:
    """Return the described network with the weights of ``folder``, in eval mode.

    Raises:
        UserError: the weights are missing, damaged or replaced, or the description names code without
            ``trust``.
    """
    weights = folder / WEIGHTS_FILE
    expected = description.provenance.get("weights_sha256")
    if weights.exists() and expected and sha256(weights) != expected:
        hint = "copy both files again, or export the student again"
        raise UserError(
            str(weights), "other bytes than student.json was written for", f"SHA-256 {expected}", hint
        )
    one = description.preprocessing
    architecture = description.architecture
    record = read_cut(folder, architecture)
    if not trust:
        _refuse_code(folder, [architecture.name, _cut_from(record)])
    student = build_student(
        architecture,
        classes=len(description.classes),
        channels=one.channels,
        size=one.size,
        record=record,
    )
    try:
        return unpack(load_file(weights), student.model, architecture.format)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            str(weights),
            f"a file that cannot be read ({error})",
            f"a {architecture.format} student's weights",
        ) from error


def _cut_from(record: dict[str, Any] | None) -> str:
    """Return the name of the big model that a student is cut from; '' for another student."""
    big_model = (record or {}).get("big_model")
    return str(big_model.get("name", "")) if isinstance(big_model, dict) else ""


def _refuse_code(folder: Path, names: Iterable[str]) -> None:
    """Refuse architectures that are functions at an import path."""
    for name in names:
        if ":" in name:
            raise UserError(
                str(folder),
                f"a student whose architecture is code that would run here: {name}",
                "an architecture of torchvision or timm",
                "if you trust who made it: trust=True in Python, --trust on the command line, TKD_TRUST=1 in "
                "the environment of `mlflow models serve`",
            )


def student_folder(path: str | Path) -> Path:
    """Return a student's folder from the folder itself or one of its files.

    Raises:
        UserError: other weights than ``student.json`` describes, such as a conversion to another format.
    """
    place = Path(path).expanduser()
    if place.suffix == ".safetensors" and place.name != WEIGHTS_FILE:
        onnx = place.with_suffix(".onnx")
        raise UserError(
            str(place),
            "weights that student.json does not describe",
            f"{WEIGHTS_FILE}, or the ONNX file {onnx.name}",
        )
    return place.parent if place.is_file() else place
