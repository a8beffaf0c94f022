"""Markdown description of a search's MLflow run: front as a table, picture, command."""

from collections.abc import Mapping, Sequence
from typing import Any

from tkd_search.results.costs import COSTS, CostName
from tkd_search.units import human_bytes, metric_text, milliseconds, percent

PREVIEW_FILE = "preview.png"


def describe(record: Mapping[str, Any], command: str, parent_run_id: str) -> str:
    """Return the description of a search's parent run.

    Args:
        record: a SearchRecord as plain values; ``trials`` and ``history`` may be missing.
        command: command line that repeats the search; '' leaves it out.
        parent_run_id: MLflow's identifier of the run that has the artifact ``preview.png``.
    """
    big, measure = record["big_model"], metric_text(record.get("metric", "accuracy"))
    cost: CostName = record.get("cost", "bytes")
    lines = [
        f"**{record['name']}** compresses {big['name']} on {record['dataset']}: "
        f"{len(record['front'])} students on the front, hypervolume {record['hypervolume']:.4f}, "
        f"{record['wall_seconds']:.0f} s.",
        "",
        f"Big model: {_costs(big)}, {big['parameters']:,} parameters, validation {measure} "
        f"{percent(big['val_accuracy'])}, test {measure} {percent(big['test_accuracy'])}.",
        "",
        *_front_table(record["front"], record.get("method", ""), cost),
        "",
        f"{COSTS[cost].noun.capitalize()} against validation {measure}:",
        "",
        f"![The front](get-artifact?path={PREVIEW_FILE}&run_uuid={parent_run_id})",
        "",
        "The interactive picture is the artifact `pareto.html`; the students are the child runs with "
        "`tags.pareto = 'true'`.",
    ]
    if command:
        lines += ["", "To repeat it:", "", "```sh", command, "```"]
    return "\n".join(lines)


def _front_table(front: Sequence[Mapping[str, Any]], method: str, cost: CostName) -> list[str]:
    """Return the front as lines of a Markdown table, cheapest student first.

    ``method`` is the method of members whose configuration does not name one.
    """
    key = "latency" if cost == "latency" else "bytes"
    rows = [_row(member, method, cost) for member in sorted(front, key=lambda member: member[key])]
    costs = ("latency", "size", "of F") if cost == "latency" else ("size", "of F")
    return [
        "".join(
            f"| {name}&ensp;" for name in ("trial", "student", "method", *costs, "validation", "test", "kept")
        )
        + "|",
        "|:--|:--|:--|" + "--:|" * (len(costs) + 3),
        *rows,
    ]


def _costs(big: Mapping[str, Any]) -> str:
    latency = big.get("latency")
    return human_bytes(big["bytes"]) + ("" if latency is None else f", {milliseconds(latency)}")


def _row(member: Mapping[str, Any], method: str, cost: CostName) -> str:
    cells = [
        member["trial_id"],
        member["student"],
        member["config"].get("method.name", method),
        *([milliseconds(member["latency"])] if cost == "latency" else []),
        human_bytes(member["bytes"]),
        percent(member["ratio"], 1),
        percent(member["val_accuracy"]),
        percent(member["test_accuracy"]),
        percent(member["retention"], 1),
    ]
    # MLflow's tables have no padding of their own.
    return "".join(f"| {cell}&ensp;" for cell in cells) + "|"
