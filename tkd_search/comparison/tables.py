"""A comparison as Markdown for people and as CSV for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tkd_search.comparison.statistics import Row, Training
from tkd_search.records import BigModelRecord
from tkd_search.tracking.spool import write_text


def markdown(
    rows: Sequence[Row],
    winners: Mapping[str, Mapping[str, Any]],
    *,
    base: str,
    big_model: BigModelRecord,
    title: str,
    command: str,
) -> str:
    """The comparison as one Markdown page: what was done, the table, the winners' settings.

    Args:
        rows: one per contestant.
        winners: label → the point its search chose.
        base: what differences are taken to.
        big_model: F.
        title: heading.
        command: the line that makes it again.
    """
    lines = [
        f"# {title}",
        "",
        f"F: {big_model.name}, {big_model.bytes:,} bytes, test {big_model.test_accuracy:.2%}. "
        "Each contestant was searched with the same budget on validation data; its winner was trained anew "
        "on fresh seeds (and subsets, where the training images are limited) and tested once each.",
        "",
        f"| contestant | seeds | validation | test, mean ± sd | − {base}, points, 95 % interval | s/epoch |"
        " bytes | parameters |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        "Winners:",
        "",
        *(f"- **{label}**: {_settings(point)}" for label, point in winners.items()),
        "",
        f"Made by `{command}`",
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    difference = "–"
    if row.difference is not None:
        half = row.difference.half_width
        spread = f" ± {100 * half:.2f}" if math.isfinite(half) else " (one pair)"
        difference = f"{100 * row.difference.mean:+.2f}{spread}"
    sd = f" ± {100 * row.test_sd:.2f}" if math.isfinite(row.test_sd) else ""
    return (
        f"| {row.label} | {row.seeds} | {100 * row.val_mean:.2f} | {100 * row.test_mean:.2f}{sd} | "
        f"{difference} | {row.seconds_per_epoch:.2f} | {row.bytes:,} | {row.parameters:,} |"
    )


def _settings(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in point.items()
    )


def write_tables(folder: Path, page: str, trainings: Sequence[Training]) -> list[Path]:
    """Write ``compare.md``, ``compare.csv`` (a row per training) and ``teachers.csv``; their paths."""
    import pandas as pd

    plain = [{k: v for k, v in asdict(training).items() if k != "teachers"} for training in trainings]
    taught = [
        {"label": t.label, "seed": t.seed, "epoch": e, "teacher": name, "weight": weight, "agreement": cka}
        for t in trainings
        for e, name, weight, cka in t.teachers
    ]
    columns = ["label", "seed", "epoch", "teacher", "weight", "agreement"]
    texts = {
        "compare.md": page,
        "compare.csv": pd.DataFrame(plain).to_csv(index=False),
        "teachers.csv": pd.DataFrame(taught, columns=columns).to_csv(index=False),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
