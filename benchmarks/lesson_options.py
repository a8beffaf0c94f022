"""What the benchmarks of students share: data and big model from options, and a file of figures."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tkd_search.data.data_settings import DataSettings
from tkd_search.models.model_settings import BigModelSettings


def lesson_parser(
    text: str | None, *, images: int | None, epochs: int, big_width: float
) -> argparse.ArgumentParser:
    """Return a parser of the options that these benchmarks share, with their defaults.

    Args:
        text: description.
        images: training images; None for all.
        epochs: of a student.
        big_width: width of F.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="figures; read again where it exists")
    parser.add_argument("--data", help="folder of CIFAR-10; default: digits")
    parser.add_argument("--images", type=int, default=images, help="training images, class-balanced")
    parser.add_argument("--epochs", type=int, default=epochs, help="of a student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    add_big_model(parser, big_width)
    return parser


def add_big_model(parser: argparse.ArgumentParser, width: float) -> None:
    """Add the options that say what F is."""
    parser.add_argument("--big-model", help="safetensors of F, a --big-name of --big-width")
    parser.add_argument("--big-name", default="resnet18", help="of torchvision")
    parser.add_argument("--big-width", type=float, default=width)
    parser.add_argument("--big-epochs", type=int, default=30, help="where it is trained here")


def lesson_settings(options: argparse.Namespace) -> tuple[DataSettings, BigModelSettings, Path]:
    """Return the settings of data and F, and the file that keeps a trained F.

    Args:
        options: ``data`` (folder of CIFAR-10, or None for the digits), ``images``, ``json``, ``big_model``
            (a weights file or None), ``big_name``, ``big_width`` and ``big_epochs``.
    """
    store = options.json.with_suffix(".big_model.safetensors")
    data = DataSettings(
        name="cifar10" if options.data else "digits",
        path=options.data,
        size=32 if options.data else None,
        train_limit=options.images,
    )
    big = BigModelSettings(
        name=options.big_name,
        width=options.big_width,
        epochs=options.big_epochs,
        weights=options.big_model or (str(store) if store.exists() else None),
        stem="small",
    )
    return data, big, store


def open_figures(file: Path, settings: dict[str, Any], empty: dict[str, Any]) -> dict[str, Any]:
    """Return what the file holds, or ``empty`` with the settings; exit where they differ from the file's."""
    settings = json.loads(json.dumps(settings))
    if not file.exists():
        return {"settings": settings, **empty}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if found["settings"] != settings:
        sys.exit(f"{file} holds figures of other settings: {found['settings']}; name another file")
    return found
