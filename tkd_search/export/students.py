"""Writes a student's description and card, and exports it in its own or another number format."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tkd_search.data import DataBundle, Split, plain_batches
from tkd_search.distill.method_settings import MetricName
from tkd_search.errors import UserError, first_line
from tkd_search.export.format_support import check_formats
from tkd_search.export.load_student import load, network, student_folder
from tkd_search.export.model_card import CARD_FILE, write_card
from tkd_search.export.onnx_file import Verified, verify
from tkd_search.export.scoring import Score, score
from tkd_search.export.shipping import calibrated, write_files, write_onnx
from tkd_search.export.student_description import (
    CUT_FILE,
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Preprocessing,
    StudentDescription,
    read_description,
    sha256,
    versions,
    write_description,
)
from tkd_search.formats import Format, unpack
from tkd_search.models.image_input import ImageInput, rendered, rendering, student_input
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.results.json_values import to_plain
from tkd_search.results.records import BigModelRecord, FrontMember

__all__ = ["Exported", "export_student", "load", "write_student"]

CALIBRATION_IMAGES = 256
_VERIFY_IMAGES = 256
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The files of a student in one format, and their measured figures.

    Attributes:
        folder: the student's folder.
        format: number format of the files.
        metric: the metric of the search.
        files: paths of weights, ONNX file, description and model card, and of a cut its ``cut.json``.
        bytes: length of the weights file.
        onnx_bytes: length of the ONNX file.
        verified: comparison of the two.
        validation, test: scores of the ONNX file under onnxruntime.
    """

    folder: Path
    format: Format
    metric: MetricName
    files: tuple[Path, ...]
    bytes: int
    onnx_bytes: int
    verified: Verified
    validation: Score
    test: Score


def write_student(
    folder: Path,
    member: FrontMember,
    *,
    architecture: StudentSettings,
    big_model_settings: BigModelSettings,
    method: str,
    data: DataBundle,
    big_model: BigModelRecord,
    search: str,
    seed: int,
    metric: MetricName,
) -> tuple[Path, ...]:
    """Describe a student whose ``model.safetensors`` lies in ``folder``: ``student.json`` and the model card.

    Args:
        folder: the student's folder.
        member: its figures; those that are no numbers yet (an interrupted search) are left open.
        architecture: the settings it was built from.
        big_model_settings: those of the big model that a cut is cut from.
        method: how it was taught; ``ce`` for without a teacher.
        data: gives preprocessing, class names and the data set's digest.
        big_model: what it was distilled from.
        search: name of the search.
        seed: root seed of the search.
        metric: what the figures called accuracies are.
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
        "metric": metric,
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
        preprocessing=_preprocessing(student_input(architecture, big_model_settings, data.input), data),
        classes=data.classes,
        figures=figures,
        provenance=provenance,
    )
    description = replace(description, figures={**_measured(folder), **figures})
    written = write_description(folder, description)
    return written, write_card(folder, read_description(folder))


def _preprocessing(one: ImageInput, data: DataBundle) -> Preprocessing:
    stored = None if one.size == data.size else data.size
    return Preprocessing(
        channels=data.channels, size=one.size, mean=one.mean, std=one.std, stored_size=stored
    )


def _measured(folder: Path) -> dict[str, Any]:
    """Return the figures of other formats that an earlier export measured of these very weights."""
    if not (folder / DESCRIPTION_FILE).exists():
        return {}
    earlier = read_description(folder)
    same = earlier.provenance.get("weights_sha256") == sha256(folder / WEIGHTS_FILE)
    return {key: value for key, value in earlier.figures.items() if same and key == "formats"}


@contextmanager
def _unfit(folder: Path, format: Format) -> Iterator[None]:
    """Convert the errors of a format that cannot hold a weight, and of a file that predicts other classes."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise UserError(str(folder), f"{first_line(error)} ({format})", "another format") from error


def export_student(
    path: str | Path, data: DataBundle, *, format: Format | None = None, trust: bool = False
) -> Exported:
    """Verify and measure a student's files, in its own format or converted to another without training.

    A converted student's files are ``model.<format>.safetensors`` and ``model.<format>.onnx``. For int8 the
    ranges of activations come from training images. The ONNX file is compared with the weights on validation
    images and scored on validation and test; all figures go into ``student.json`` and the card.

    Args:
        path: the student's folder, or a file in it.
        data: the data set of its search.
        format: the format to convert to; None or the student's own: its own files.
        trust: as for :func:`tkd_search.load`.

    Raises:
        UserError: files are missing or damaged, onnxruntime here does not run the format, the format cannot
            hold a weight, or the ONNX file predicts other classes than the weights.
    """
    folder = student_folder(path)
    description = read_description(folder)
    own = description.architecture.format
    made = format or own
    check_formats([made], "format")
    stem = "" if made == own else f".{made}"
    pre = description.preprocessing
    shape = (pre.channels, pre.size, pre.size)
    model = network(folder, description, trust=trust)
    if stem:
        model = calibrated(model, made, _calibration(data, description))
        with _unfit(folder, made):
            onnx = write_files(model, made, shape, folder, stem=stem)
    else:
        onnx = write_onnx(model, own, shape, folder)
    weights = folder / WEIGHTS_FILE.replace(".", f"{stem}.", 1)
    loaded = unpack(load_file(weights), model, made)
    sample, _ = next(_batches(data.validation, description, _VERIFY_IMAGES))
    with _unfit(folder, made):
        verified = verify(onnx.as_written(), loaded, sample, made)
    exported = Exported(
        folder=folder,
        format=made,
        metric=description.provenance.get("metric", "accuracy"),
        files=(weights, onnx.path, folder / DESCRIPTION_FILE, folder / CARD_FILE, *folder.glob(CUT_FILE)),
        bytes=weights.stat().st_size,
        onnx_bytes=onnx.path.stat().st_size,
        verified=verified,
        validation=score(onnx, _batches(data.validation, description), description.classes),
        test=score(onnx, _batches(data.test, description), description.classes),
    )
    figures = {
        "bytes": exported.bytes,
        "onnx_bytes": exported.onnx_bytes,
        "val_accuracy": exported.validation.figure(exported.metric),
        "test_accuracy": exported.test.figure(exported.metric),
        **vars(exported.verified),
    }
    formats = {**description.figures.get("formats", {}), made: figures}
    write_description(folder, replace(description, figures={**description.figures, "formats": formats}))
    write_card(folder, read_description(folder))
    return exported


def _batches(split: Split, one: StudentDescription, size: int = _BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    pre = one.preprocessing
    batches = plain_batches(split, mean=pre.mean, std=pre.std, batch_size=size)
    wanted = ImageInput(size=pre.size, mean=pre.mean, std=pre.std)
    return rendered(batches, rendering(replace(wanted, size=pre.stored_size or pre.size), wanted))


def _calibration(data: DataBundle, description: StudentDescription) -> Iterator[Tensor]:
    """Yield at most 256 training images, not augmented."""
    for images, _ in _batches(data.train.evenly(CALIBRATION_IMAGES), description, 32):
        yield images
