"""Markdown description of a search's MLflow run: front as a table, picture, command."""

from collections.abc import Mapping, Sequence
from typing import Any

from tkd_search.units import human_bytes, metric_text, percent

PREVIEW_FILE = "preview.png"


def describe(record: Mapping[str, Any], command: str, parent_run_id: str) -> str:
    """Return the description of a search's parent run.

    Args:
        record: a SearchRecord as plain values; ``trials`` and ``history`` may be missing.
        command: command line that repeats the search; '' leaves it out.
        parent_run_id: MLflow's identifier of the run that has the artifact ``preview.png``.
    """
    big, measure = record["big_model"], metric_text(record.get("metric", "accuracy"))
    lines = [
        f"**{record['name']}** compresses {big['name']} on {record['dataset']}: "
        f"{len(record['front'])} students on the front, hypervolume {record['hypervolume']:.4f}, "
        f"{record['wall_seconds']:.0f} s.",
        "",
        f"Big model: {human_bytes(big['bytes'])}, {big['parameters']:,} parameters, validation {measure} "
        f"{percent(big['val_accuracy'])}, test {measure} {percent(big['test_accuracy'])}.",
        "",
        *_front_table(record["front"], record.get("method", "")),
        "",
        f"Size against validation {measure}:",
        "",
        f"![The front](get-artifact?path={PREVIEW_FILE}&run_uuid={parent_run_id})",
        "",
        "The interactive picture is the artifact `pareto.html`; the students are the child runs with "
        "`tags.pareto = 'true'`.",
    ]
    if command:
        lines += ["", "To repeat it:", "", "```sh", command, "```"]
    return "\n".join(lines)


def _front_table(front: Sequence[Mapping[str, Any]], method: str = "") -> list[str]:
    """Return the front as lines of a Markdown table, smallest student first.

    ``method`` is the method of members whose configuration does not name one.
    """
    rows = [_row(member, method) for member in sorted(front, key=lambda member: member["bytes"])]
    return [
        "".join(
            f"| {name}&ensp;"
            for name in ("trial", "student", "method", "size", "of F", "validation", "test", "kept")
        )
        + "|",
        "|:--|:--|:--|--:|--:|--:|--:|--:|",
        *rows,
    ]


def _row(member: Mapping[str, Any], method: str) -> str:
    cells = [
        member["trial_id"],
        member["student"],
        member["config"].get("method.name", method),
        human_bytes(member["bytes"]),
        percent(member["ratio"], 1),
        percent(member["val_accuracy"]),
        percent(member["test_accuracy"]),
        percent(member["retention"], 1),
    ]
    # MLflow's tables have no padding of their own.
    return "".join(f"| {cell}&ensp;" for cell in cells) + "|"
