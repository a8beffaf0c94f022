"""The Markdown that a search shows on its page: its front as a table, its picture, how to repeat it."""

from collections.abc import Mapping, Sequence
from typing import Any

PREVIEW_FILE = "preview.png"


def describe(record: Mapping[str, Any], command: str, parent_run_id: str) -> str:
    """The parent run's description.

    Args:
        record: a SearchRecord as plain values (``trials`` and ``history`` may be missing).
        command: the line that repeats the search; '' leaves it out.
        parent_run_id: MLflow's identifier of the run that holds ``preview.png``.
    """
    big = record["big_model"]
    lines = [
        f"**{record['name']}** compresses {big['name']} on {record['dataset']}: "
        f"{len(record['front'])} students on the front, hypervolume {record['hypervolume']:.4f}, "
        f"{record['wall_seconds']:.0f} s.",
        "",
        f"Big model: {human_bytes(big['bytes'])}, {big['parameters']:,} parameters, validation accuracy "
        f"{percent(big['val_accuracy'])}, test accuracy {percent(big['test_accuracy'])}.",
        "",
        *front_table(record["front"], record.get("method", "")),
        "",
        "Size against validation accuracy:",
        "",
        f"![The front](get-artifact?path={PREVIEW_FILE}&run_uuid={parent_run_id})",
        "",
        "The interactive picture is the artifact `pareto.html`; the students are the child runs with "
        "`tags.pareto = 'true'`.",
    ]
    if command:
        lines += ["", "To repeat it:", "", "```sh", command, "```"]
    return "\n".join(lines)


def front_table(front: Sequence[Mapping[str, Any]], method: str = "") -> list[str]:
    """The front as the lines of a Markdown table, smallest student first; ``method`` where all have one."""
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


def human_bytes(count: float) -> str:
    """A size in decimal units with three significant digits: ``128 kB``, ``1.54 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def percent(share: float | None, digits: int = 2) -> str:
    """A share of one as a percentage; a dash where it is unknown or no number."""
    return "–" if share is None or share != share else f"{share:.{digits}%}"
