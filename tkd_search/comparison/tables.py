"""Tables of a comparison, as Markdown and as CSV."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tkd_search.comparison.paired_statistics import Failure, Row, Training
from tkd_search.files import write_text
from tkd_search.results.records import BigModelRecord
from tkd_search.units import metric_text


def markdown(
    rows: Sequence[Row],
    winners: Mapping[str, Mapping[str, Any]],
    *,
    base: str,
    big_model: BigModelRecord,
    title: str,
    command: str,
    metric: str = "accuracy",
    failures: Mapping[Path, Failure] | None = None,
) -> str:
    """Return the comparison as a Markdown page: procedure, table, the winners' settings.

    Args:
        rows: one per contestant.
        winners: label → the point that its search found best.
        base: label of the contestant that the others are compared with.
        big_model: F.
        title: heading.
        command: the shell command that repeats the comparison.
        metric: ``search.metric``, what all figures are.
        failures: file → the failed training that it keeps.
    """
    of_f = f"test {metric_text(metric)} {big_model.test_accuracy:.2%}"
    lines = [
        f"# {title}",
        "",
        f"F: {big_model.name}, {big_model.bytes:,} bytes, {of_f}. "
        "Each contestant was searched with the same budget on validation data; its winner was trained again "
        "on fresh seeds (and subsets, where the training images are limited) and tested once each.",
        "",
        f"| contestant | seeds | validation | test, mean ± sd | − {base}, points, 95 % interval | s/epoch |"
        " bytes | parameters |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        *_failures(failures or {}),
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
        if 1 < row.difference.pairs < row.seeds:  # the base has failed on some of these seeds
            difference += f" ({row.difference.pairs} pairs)"
    sd = f" ± {100 * row.test_sd:.2f}" if math.isfinite(row.test_sd) else ""
    seeds = f"{row.seeds} of {row.seeds + row.failed} seeds, {row.failed} failed" if row.failed else row.seeds
    return (
        f"| {row.label} | {seeds} | {_figure(100 * row.val_mean)} | {_figure(100 * row.test_mean)}{sd} | "
        f"{difference} | {_figure(row.seconds_per_epoch)} | {row.bytes:,} | {row.parameters:,} |"
    )


def _figure(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _failures(failures: Mapping[Path, Failure]) -> list[str]:
    """Return the failed trainings, which the table omits, and how to run them again."""
    if not failures:
        return []
    return [
        "Failed trainings, which no mean or difference includes; the same command runs them again once their "
        "files are deleted:",
        "",
        *(f"- **{one.label}**, seed {one.seed}: {one.failed} (`{file}`)" for file, one in failures.items()),
        "",
    ]


def _settings(point: Mapping[str, Any]) -> str:
    if not point:
        return "as configured, nothing was searched"
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in point.items()
    )


def write_tables(folder: Path, page: str, trainings: Sequence[Training | Failure]) -> list[Path]:
    """Write ``compare.md``, ``compare.csv`` (a row per training) and ``teachers.csv``; return their paths.

    The row of a failed training has no figures, and the reason in the column ``failed``.
    """
    import pandas as pd

    teachers = [
        {"label": t.label, "seed": t.seed, "epoch": e, "teacher": name, "weight": weight, "agreement": cka}
        for t in trainings
        if isinstance(t, Training)
        for e, name, weight, cka in t.teachers
    ]
    columns = ["label", "seed", "epoch", "teacher", "weight", "agreement"]
    texts = {
        "compare.md": page,
        "compare.csv": training_table(trainings),
        "teachers.csv": pd.DataFrame(teachers, columns=columns).to_csv(index=False),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def training_table(trainings: Sequence[Training | Failure]) -> str:
    """Return a CSV table with a row per training; a failed one has no figures, and its reason."""
    import pandas as pd

    names = [field.name for field in fields(Training) if field.name != "teachers"]
    rows = [asdict(training) for training in trainings]
    return str(pd.DataFrame(rows, columns=[*names, "failed"]).to_csv(index=False))
