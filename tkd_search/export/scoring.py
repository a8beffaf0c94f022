"""Scores a student on labelled images: accuracy, macro recall, macro F1, recall per class."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tkd_search.data.sources.class_names import class_name
from tkd_search.data.sources.image_names import IMAGE_SUFFIXES, image_files, is_skipped_folder
from tkd_search.distill.method_settings import MetricName
from tkd_search.distill.training.evaluation import class_counts, figure
from tkd_search.errors import UserError, printable


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class: how many images, how many were recognised; ``recall`` in [0, 1], NaN without images."""

    name: str
    images: int
    right: int

    @property
    def recall(self) -> float:
        """Return the share of the class's images that were recognised."""
        return self.right / self.images if self.images else float("nan")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics in [0, 1] over all images (:func:`tkd_search.distill.training.evaluation.figure`).

    ``macro_recall`` is the balanced accuracy: the mean recall of the classes that have images.
    """

    accuracy: float
    macro_recall: float
    macro_f1: float
    images: int
    classes: tuple[ClassScore, ...]

    def figure(self, metric: MetricName) -> float:
        """Return one of the metrics by its name in ``search.metric``."""
        return self.macro_recall if metric == "balanced_accuracy" else float(getattr(self, metric))


def score(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], classes: tuple[str, ...]
) -> Score:
    """Score a network (or an ONNX session) on batches.

    Args:
        predict: normalised images [B, C, H, W] → logits [B, c].
        batches: pairs of such images and labels int64 [B].
        classes: names of the labels 0 to c − 1.
    """
    counts = torch.zeros(3, len(classes), dtype=torch.int64)
    with torch.inference_mode():
        for batch, labels in batches:
            counts = counts + class_counts(predict(batch), labels).cpu()
    right, images, _ = counts.tolist()
    parts = zip(classes, images, right, strict=True)
    return Score(
        accuracy=figure(counts, "accuracy"),
        macro_recall=figure(counts, "balanced_accuracy"),
        macro_f1=figure(counts, "macro_f1"),
        images=sum(images),
        classes=tuple(ClassScore(name=name, images=all_, right=hit) for name, all_, hit in parts),
    )


def labelled_files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Return the images in ``folder/<class>/`` with their labels, sorted.

    Raises:
        UserError: no such folder, a subfolder that is not a class of the student, or no images.
    """
    if not folder.is_dir():
        raise UserError("--data", f"{folder}, which is no folder", "a folder with one subfolder per class")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not is_skipped_folder(path.name))
    numbers = {name: label for label, name in enumerate(classes)}
    labels = {path: numbers.get(printable(class_name(path.name))) for path in found}
    unknown = [path.name for path, label in labels.items() if label is None]
    if unknown or not found:
        names = ", ".join(unknown) or "no subfolders"
        raise UserError(f"--data {folder}", names, f"subfolders named after classes: {', '.join(classes)}")
    files = [
        (place / name, label)
        for place, label in labels.items()
        if label is not None
        for name in image_files(place, Counter())
    ]
    if not files:
        raise UserError(
            f"--data {folder}", "no images", f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return files
