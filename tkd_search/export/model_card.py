"""Writes a student's model card: figures, use, origin, limits."""

from pathlib import Path
from typing import Any

from tkd_search.export.onnx_file import ONNX_FILE
from tkd_search.export.student_description import Preprocessing, StudentDescription
from tkd_search.files import write_text
from tkd_search.formats.onnx_writer import INPUT, OPSET, OUTPUT
from tkd_search.units import human_bytes, metric_text, milliseconds, percent

CARD_FILE = "README.md"


def write_card(folder: Path, description: StudentDescription) -> Path:
    """Write ``README.md`` beside the weights, atomically."""
    write_text(folder / CARD_FILE, card(description, onnx=(folder / ONNX_FILE).exists()))
    return folder / CARD_FILE


def card(description: StudentDescription, *, onnx: bool) -> str:
    """Return the card as Markdown; a figure that was not measured is a dash."""
    sections = [_what(description), _figures(description), _use(description, onnx=onnx)]
    if description.figures.get("formats"):
        sections.append(_formats(description))
    sections += [_origin(description), _limits(description)]
    return "\n\n".join(sections) + "\n"


def _what(one: StudentDescription) -> str:
    made = one.provenance
    version = made.get("versions", {}).get("tkd_search", "")
    colour = "grey" if one.preprocessing.channels == 1 else "colour"
    size = one.preprocessing.size
    return (
        f"# {one.name}\n\nAn image classifier of {len(one.classes)} classes for {colour} images of "
        f"{size}×{size} pixels, {_how(made)} on {made.get('dataset', 'its data set')} by tkd_search "
        f"{version}."
    )


def _how(made: dict[str, Any]) -> str:
    big = made.get("big_model", "a big model")
    if made.get("method") == "ce":
        return f"trained without a teacher, beside students of {big},"
    return f"distilled from {big}"


def _figures(one: StudentDescription) -> str:
    figures, measure = one.figures, metric_text(one.provenance.get("metric", "accuracy"))
    rows = [
        ("format of the weights", one.architecture.format),
        ("size of the weights", _size(figures.get("bytes"))),
        ("of the big model's", percent(figures.get("ratio"), 1)),
        ("parameters", f"{figures['parameters']:,}" if "parameters" in figures else "–"),
        (f"validation {measure} (chosen by)", percent(figures.get("val_accuracy"))),
        (f"test {measure} (measured once)", percent(figures.get("test_accuracy"))),
        (f"of the big model's test {measure}", percent(figures.get("retention"), 1)),
    ]
    rows += [
        (f"CPU latency, batch {batch}, 1 thread", milliseconds(value))
        for batch, value in figures.get("latency_ms", {}).items()
    ]
    return "\n".join(
        ["## Figures", "", "| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)]
    )


def _use(one: StudentDescription, *, onnx: bool) -> str:
    pre = one.preprocessing
    text = (
        '## Use\n\n```python\nimport tkd_search\n\nmodel, transform = tkd_search.load("FOLDER")\n'
        'logits = model(transform("picture.png")[None])\n```\n\n'
        f"Input: the shorter side scaled to {pre.stored_size or pre.size} pixels (bilinear), the middle cut "
        "out, values divided by 255, then "
        f"(x − mean) / std with mean {_list(pre.mean)} and std {_list(pre.std)} per channel"
        f"{_scaled(pre)}. "
        "Pixels are taken as stored: EXIF orientation and transparency are not applied. "
        f"Classes, in order: {', '.join(one.classes)}.\n\n"
        f"As a model of MLflow's its `predict` takes uint8 images [batch, {pre.size}, {pre.size}, "
        f"{pre.channels}] with values from 0 to 255, normalises them itself, and gives class probabilities."
    )
    if onnx:
        opset = OPSET[one.architecture.format]
        text += (
            f"\n\n`{ONNX_FILE}` (opset {opset}) takes `{INPUT}`, that input as float32 "
            f"[batch, {pre.channels}, {pre.size}, {pre.size}], and gives `{OUTPUT}`."
        )
    return text + _own_code(one, onnx=onnx)


def _scaled(pre: Preprocessing) -> str:
    size = f"{pre.size} × {pre.size} pixels"
    return "" if pre.stored_size is None else f", then scaled to {size} (bilinear, antialiased)"


def _own_code(one: StudentDescription, *, onnx: bool) -> str:
    """Return which module must be importable where a user's function builds the network, else ''."""
    module, colon, function = one.architecture.name.partition(":")
    if not colon:
        return ""
    made = "" if onnx else f" (`python -m tkd_search export RUN {one.trial_id}` makes it)"
    return (
        f"\n\nThe network is built by `{function}` of the module `{module}`, which is not in this folder: "
        "`tkd_search.load` and MLflow's model need it importable (installed, or its folder on `PYTHONPATH`), "
        "and run it only with `trust=True` (MLflow: TKD_TRUST=1 in the environment). "
        f"`{ONNX_FILE}`{made} holds the whole network and needs neither that module nor tkd_search."
    )


def _formats(one: StudentDescription) -> str:
    lines = ["## Exported formats", "", "| format | weights | ONNX | validation | test | equal predictions |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for name, made in one.figures["formats"].items():
        lines.append(
            f"| {name} | {_size(made['bytes'])} | {_size(made['onnx_bytes'])} | "
            f"{percent(made['val_accuracy'])} | {percent(made['test_accuracy'])} | "
            f"{made['same']} of {made['samples']} |"
        )
    lines.append("")
    lines.append("Formats other than the student's own were converted after training.")
    return "\n".join(lines)


def _origin(one: StudentDescription) -> str:
    made = one.provenance
    config = "\n".join(f"{key}: {value}" for key, value in made.get("config", {}).items())
    versions = ", ".join(f"{name} {value}" for name, value in made.get("versions", {}).items())
    return (
        f"## Made from\n\nSearch `{made.get('search', '–')}`, trial `{one.trial_id}`, seed "
        f"{made.get('seed', '–')}; data set {made.get('dataset', '–')} (digest "
        f"`{made.get('dataset_digest', '–')}`); {versions}. Searched settings:\n\n```\n{config}\n```"
    )


def _limits(one: StudentDescription) -> str:
    return (
        "## Limits\n\nIt knows the classes above and nothing else: any picture gets one of them. The figures "
        f"hold for images like those of {one.provenance.get('dataset', 'its data set')}; score it on yours "
        "with `python -m tkd_search evaluate FOLDER --data IMAGES` before you rely on it."
    )


def _size(count: Any) -> str:
    return "–" if count is None else f"{human_bytes(count)} ({count:,} bytes)"


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
