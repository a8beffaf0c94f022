"""Copies a student in the format of its export to a folder of its own, ready to ship and to load."""

import shutil
from dataclasses import replace
from pathlib import Path

from tkd_search.export.model_card import CARD_FILE, write_card
from tkd_search.export.onnx_file import ONNX_FILE
from tkd_search.export.student_description import (
    CUT_FILE,
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    StudentDescription,
    read_description,
    write_description,
)
from tkd_search.export.students import Exported
from tkd_search.models.model_settings import StudentSettings
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import BigModelRecord


def copy_student(made: Exported, target: Path) -> None:
    """Copy an exported student to a folder, which is created and which ``load`` reads.

    A converted student gets the plain names ``model.safetensors`` and ``model.onnx`` there, and a description
    of its own with the figures that the export measured.
    """
    target.mkdir(parents=True, exist_ok=True)
    weights, onnx, *_ = made.files
    shutil.copyfile(weights, target / WEIGHTS_FILE)
    shutil.copyfile(onnx, target / ONNX_FILE)
    if (made.folder / CUT_FILE).exists():
        shutil.copyfile(made.folder / CUT_FILE, target / CUT_FILE)
    description = read_description(made.folder)
    if made.format == description.architecture.format:
        for name in (DESCRIPTION_FILE, CARD_FILE):
            shutil.copyfile(made.folder / name, target / name)
        return
    write_description(target, _converted(description, made))
    write_card(target, read_description(target))


def _converted(student: StudentDescription, made: Exported) -> StudentDescription:
    """Return the description of a student in another format; what was not measured in it is left out."""
    big_model = from_plain(BigModelRecord, student.provenance["big_model_figures"])
    test_accuracy = made.test.figure(made.metric)
    figures = {
        "bytes": made.bytes,
        "parameters": student.figures["parameters"],
        "ratio": made.bytes / big_model.bytes,
        "val_accuracy": made.validation.figure(made.metric),
        "test_accuracy": test_accuracy,
        "retention": big_model.retention(test_accuracy),
        "formats": {made.format: student.figures["formats"][made.format]},
    }
    name = student.name.removesuffix(f" {student.architecture.format}")
    if made.format != StudentSettings().format:
        name = f"{name} {made.format}"
    architecture = replace(student.architecture, format=made.format)
    return replace(student, name=name, architecture=architecture, figures=figures)
