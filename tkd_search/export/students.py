"""A front member → files that ship, and back: what other parts and users call.

The rooms are in ``tkd_search.export``. Formats: ``model.safetensors`` (the plain network's state dict) with
``student.json``, ``model.onnx``, ``model.int8.onnx``, and ``README.md``, the model card.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tkd_search.data import DataBundle, Split, plain_batches
from tkd_search.export.int8 import CALIBRATION_IMAGES, INT8_FILE, quantise
from tkd_search.export.load_student import load, network, student_folder
from tkd_search.export.model_card import CARD_FILE, write_card
from tkd_search.export.onnx_file import ONNX_FILE, Verified, export_onnx, run, session, verify
from tkd_search.export.scoring import Score, score
from tkd_search.export.student_description import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Preprocessing,
    StudentDescription,
    read_description,
    sha256,
    versions,
    write_description,
)
from tkd_search.models.model_settings import StudentSettings
from tkd_search.results.json_values import to_plain
from tkd_search.results.records import BigModelRecord, FrontMember

__all__ = ["Exported", "export_student", "load", "write_student"]
_VERIFY_IMAGES = 256
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export made and measured; ``int8`` and its accuracies only where asked for."""

    folder: Path
    files: tuple[Path, ...]
    onnx: Verified
    onnx_bytes: int
    test: Score
    int8_bytes: int = 0
    int8_validation: Score | None = None
    int8_test: Score | None = None


def write_student(
    folder: Path,
    member: FrontMember,
    *,
    architecture: StudentSettings,
    method: str,
    data: DataBundle,
    big_model: BigModelRecord,
    search: str,
    seed: int,
) -> tuple[Path, ...]:
    """Describe a student whose ``model.safetensors`` lies in ``folder``: ``student.json`` and the model card.

    Args:
        folder: the student's folder.
        member: its figures; those that are no numbers yet (an interrupted search) are left open.
        architecture: the settings it was built from.
        method: how it was taught; ``ce`` for without a teacher.
        data: gives preprocessing, class names and the data set's digest.
        big_model: what it was distilled from.
        search: name of the search. seed: its root seed.
        seed: root seed of the search.
    """
    figures = {
        "bytes": member.bytes,
        "parameters": member.parameters,
        "ratio": member.ratio,
        "val_accuracy": member.val_accuracy,
        "test_accuracy": member.test_accuracy,
        "retention": member.retention,
        "latency_ms": member.latency_ms,
    }
    provenance = {
        "search": search,
        "seed": seed,
        "dataset": data.name,
        "dataset_digest": data.digest,
        "big_model": big_model.name,
        "big_model_figures": to_plain(big_model),
        "method": method,
        "config": member.config,
        "versions": versions(),
    }
    description = StudentDescription(
        name=member.student,
        trial_id=member.trial_id,
        architecture=architecture,
        preprocessing=Preprocessing(channels=data.channels, size=data.size, mean=data.mean, std=data.std),
        classes=data.classes,
        figures=figures,
        provenance=provenance,
    )
    description = replace(description, figures={**_measured(folder), **figures})
    written = write_description(folder, description)
    return written, write_card(folder, read_description(folder))


def _measured(folder: Path) -> dict[str, Any]:
    """What an earlier export measured of these very weights, so that describing them again keeps it."""
    if not (folder / DESCRIPTION_FILE).exists():
        return {}
    earlier = read_description(folder)
    same = earlier.provenance.get("weights_sha256") == sha256(folder / WEIGHTS_FILE)
    return {key: value for key, value in earlier.figures.items() if same and key in ("onnx", "int8")}


def export_student(path: str | Path, data: DataBundle, *, int8: bool = False) -> Exported:
    """Write ``model.onnx`` (and ``model.int8.onnx``) beside a student, check and measure them.

    The ONNX file is compared with PyTorch on real test images and scored on the whole test part; the int8
    file is calibrated on training images and scored on validation and test. All of it goes into
    ``student.json`` and the card.

    Raises:
        UserError: files are missing, or the extra ``export`` is not installed.
        RuntimeError: the exported network computes something else.
    """
    folder = student_folder(path)
    description = read_description(folder)
    model = network(folder, description)
    onnx = export_onnx(model, description, folder / ONNX_FILE)
    sample = next(_batches(data.test, description, _VERIFY_IMAGES))[0]
    verified = verify(onnx, model, sample)
    figures: dict[str, Any] = {
        **description.figures,
        "onnx": {**vars(verified), "bytes": onnx.stat().st_size},
    }
    test = _scored(onnx, data.test, description)
    made = Exported(
        folder=folder,
        files=(folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE, onnx, folder / CARD_FILE),
        onnx=verified,
        onnx_bytes=onnx.stat().st_size,
        test=test,
    )
    if int8:
        made = _quantised(made, description, data)
        assert made.int8_validation is not None
        assert made.int8_test is not None
        figures["int8"] = {
            "bytes": made.int8_bytes,
            "val_accuracy": made.int8_validation.accuracy,
            "test_accuracy": made.int8_test.accuracy,
            "calibration_images": min(CALIBRATION_IMAGES, len(data.train)),
        }
    write_description(folder, replace(description, figures=figures))
    write_card(folder, read_description(folder))
    return made


def _quantised(made: Exported, description: StudentDescription, data: DataBundle) -> Exported:
    target = quantise(made.folder / ONNX_FILE, made.folder / INT8_FILE, _calibration(data, description))
    return replace(
        made,
        files=(*made.files, target),
        int8_bytes=target.stat().st_size,
        int8_validation=_scored(target, data.validation, description),
        int8_test=_scored(target, data.test, description),
    )


def _scored(onnx: Path, split: Split, description: StudentDescription) -> Score:
    opened = session(onnx)
    return score(lambda images: run(opened, images), _batches(split, description), description.classes)


def _batches(split: Split, one: StudentDescription, size: int = _BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    pre = one.preprocessing
    return plain_batches(split, mean=pre.mean, std=pre.std, batch_size=size)


def _calibration(data: DataBundle, description: StudentDescription) -> Iterator[Tensor]:
    """At most 256 training images, not augmented, evenly over the split (classes may lie in order)."""
    import torch

    count = min(CALIBRATION_IMAGES, len(data.train))
    chosen = torch.linspace(0, len(data.train) - 1, count).long()
    part = Split(data.train.images[chosen], data.train.labels[chosen])
    for images, _ in _batches(part, description, 32):
        yield images
