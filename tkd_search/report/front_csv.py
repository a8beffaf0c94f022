"""Writes ``pareto.csv``: one row per member of the front, smallest first."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tkd_search.files import write_text
from tkd_search.results.records import FrontMember, SearchRecord

FIGURES = (
    "trial_id",
    "student",
    "bytes",
    "parameters",
    "ratio",
    "val_accuracy",
    "test_accuracy",
    "retention",
)


def front_frame(records: Sequence[SearchRecord]) -> pd.DataFrame:
    """Return the fronts of one or several searches as a table.

    Returns:
        Columns: ``search`` (only for several), the figures of a FrontMember, ``latency_ms_<batch>``,
        ``path``, and every searched setting under its dotted key.
    """
    rows = [
        ({"search": record.name} if len(records) > 1 else {}) | member_row(member)
        for record in records
        for member in sorted(record.front, key=lambda member: (member.bytes, member.trial_id))
    ]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*FIGURES, "path"])
    return frame.astype({"trial_id": str})


def member_row(member: FrontMember) -> dict[str, object]:
    """Return one front member as a flat row."""
    latencies = {f"latency_ms_{size}": value for size, value in sorted(member.latency_ms.items())}
    figures = {name: getattr(member, name) for name in FIGURES}
    return {**figures, **latencies, "path": member.path, **member.config}


def write_table(records: Sequence[SearchRecord], path: Path) -> Path:
    """Write :func:`front_frame` as CSV, atomically."""
    write_text(path, front_frame(records).to_csv(index=False))
    return path
