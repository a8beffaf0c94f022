"""``evaluate``: score a shipped student on the user's images."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tkd_search.cli.option_types import PATH, TRUST
from tkd_search.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from tkd_search.export.student_description import StudentDescription
    from tkd_search.export.transform import Transform

EPILOG = """\b
Examples:
  python -m tkd_search evaluate runs/digits/students/t0012 --data my/images
  python -m tkd_search evaluate runs/digits/students/t0012/model.onnx --data my/images
my/images holds one folder per class, with the names of the student's classes.
"""


@click.command(epilog=EPILOG)
@click.argument("path", type=PATH)
@click.option("--data", required=True, type=PATH, help="Folder of <class>/<image> files.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images per forward pass."
)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@TRUST
def command(path: Path, data: Path, batch_size: int, as_json: bool, trust: bool) -> None:
    """Score the student at PATH (its folder, or an .onnx file in it): accuracy and recalls."""
    if not path.exists():
        raise UserError("PATH", f"{path}, which does not exist", "a student's folder, or an .onnx file in it")
    from tkd_search.export.load_student import student_folder
    from tkd_search.export.scoring import labelled_files, score
    from tkd_search.export.student_description import read_description
    from tkd_search.export.transform import Transform

    description = read_description(student_folder(path))
    files = labelled_files(data, description.classes)
    batches = _batches(files, Transform(description.preprocessing), batch_size)
    result = score(_predictor(path, description, trust), batches, description.classes)
    if as_json:
        parts = {one.name: {"images": one.images, "right": one.right} for one in result.classes}
        names = ("accuracy", "macro_recall", "macro_f1", "images")
        figures = {name: getattr(result, name) for name in names}
        click.echo(json.dumps({**figures, "classes": parts}))
        return
    width = max(len(one.name) for one in result.classes)
    click.echo(
        f"{description.name} on {result.images:,} images of {data}: accuracy {result.accuracy:.2%}, "
        f"macro recall {result.macro_recall:.2%}, macro F1 {result.macro_f1:.2%}"
    )
    for one in result.classes:
        recall = f"{one.recall:7.2%}" if one.images else "      –"
        click.echo(f"  {one.name:<{width}}  {recall}  {one.right} of {one.images}")


def _predictor(path: Path, description: "StudentDescription", trust: bool) -> Callable[["Tensor"], "Tensor"]:
    """Return a function from normalised images to logits, run by PyTorch or onnxruntime."""
    from tkd_search.export.load_student import network, student_folder
    from tkd_search.export.onnx_file import OnnxNetwork

    if path.suffix == ".onnx":
        return OnnxNetwork(path)
    return network(student_folder(path), description, trust=trust)


def _batches(
    files: Sequence[tuple[Path, int]], transform: "Transform", size: int
) -> Iterator[tuple["Tensor", "Tensor"]]:
    import torch

    for start in range(0, len(files), size):
        part = files[start : start + size]
        yield transform.batch([path for path, _ in part]), torch.tensor([label for _, label in part])
