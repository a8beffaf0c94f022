"""Writes ``pareto.csv``: one row per member of the front, smallest first, then the references."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tkd_search.files import write_text
from tkd_search.results.costs import Costed
from tkd_search.results.records import FrontMember, SearchRecord, by_cost

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
        Columns: ``search`` (only for several), the figures of a FrontMember, ``latency_ms`` (only where the
        search minimises it), ``latency_ms_<batch>`` of the shipped file, ``path``, and every searched setting
        under its dotted key.
    """
    rows = [
        ({"search": record.name} if len(records) > 1 else {}) | member_row(member)
        for record in records
        for member in by_cost(record.front)
    ]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*FIGURES, "path"])
    return frame.astype({"trial_id": str})


def member_row(member: FrontMember) -> dict[str, object]:
    """Return one front member as a flat row."""
    latencies = {f"latency_ms_{size}": value for size, value in sorted(member.latency_ms.items())}
    figures = {name: getattr(member, name) for name in FIGURES}
    return {**figures, **_latency(member), **latencies, "path": member.path, **member.config}


def write_table(records: Sequence[SearchRecord], path: Path) -> Path:
    """Write :func:`front_frame` and the references as CSV, atomically.

    The column ``kind`` says ``student`` or ``reference`` (the big model in a number format). References have
    no trial, path or settings.
    """
    front, others = front_frame(records), pd.DataFrame(_references(records))
    front.insert(0, "kind", "student")
    write_text(path, (pd.concat([front, others]) if len(others) else front).to_csv(index=False))
    return path


def _latency(model: Costed) -> dict[str, float]:
    return {} if model.latency is None else {"latency_ms": model.latency}


def _references(records: Sequence[SearchRecord]) -> list[dict[str, object]]:
    return [
        {
            **({"search": record.name} if len(records) > 1 else {}),
            "kind": "reference",
            "student": f"{record.big_model.name} {one.format}",
            "bytes": one.bytes,
            **_latency(one),
            "parameters": record.big_model.parameters,
            "ratio": one.ratio,
            "val_accuracy": one.val_accuracy,
            "test_accuracy": one.test_accuracy,
            "retention": record.big_model.retention(one.test_accuracy),
        }
        for record in records
        for one in sorted(record.big_model.references, key=lambda one: one.cost)
    ]
