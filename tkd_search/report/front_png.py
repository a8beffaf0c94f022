"""Draws ``pareto.png``: the front for print, readable in grey, with labels that do not overlap."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tkd_search.files import write_bytes
from tkd_search.report.figures import (
    accuracy_window,
    by_end,
    common_cost,
    cost_window,
    measures,
    shown_trials,
)
from tkd_search.report.label_placement import Box, place_labels
from tkd_search.report.style import FAINT, INK, MARKERS, MUTED, RULE, SERIES, cost_ticks
from tkd_search.results.costs import Cost
from tkd_search.results.records import FrontMember, SearchRecord, by_cost

DPI = 200
MOST_LABELS = 9
_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


def write_print(records: Sequence[SearchRecord], path: Path) -> Path:
    """Draw one or several searches and write the picture, 1500 by 960 pixels, atomically."""
    with _matplotlib_defaults():
        write_bytes(path, _drawn(records))
    return path


@contextmanager
def _matplotlib_defaults() -> Iterator[None]:
    """Import matplotlib and draw with its own defaults, whatever the environment and the user's files set.

    A notebook exports a backend in MPLBACKEND that other environments lack; importing matplotlib then fails.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def _drawn(records: Sequence[SearchRecord]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes, records)
    for place, record in enumerate(records):
        _trials(axes, record, place)
        _front(axes, record, place, alone=len(records) == 1)
    _big_models(axes, records)
    _legend(axes)
    figure.canvas.draw()
    _label(axes, records)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()


def _frame(axes: Any, records: Sequence[SearchRecord]) -> None:
    low, high = cost_window(records)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(*accuracy_window(records))
    ticks = cost_ticks(low, high)
    cost = common_cost(records)
    axes.set_xticks(ticks, [cost.text(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}" if value > 1 else f"{100 * value:.4g} %")
    axes.set_xlabel(f"{cost.axis} (log scale)", color=INK, fontsize=9)
    axes.set_ylabel(f"validation {measures(records)}", color=INK, fontsize=9)
    axes.tick_params(colors=MUTED, labelsize=8, length=0, pad=5)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    names = ", ".join(record.name for record in records)
    dataset = " and ".join(dict.fromkeys(record.dataset for record in records))
    axes.set_title(
        f"{names}: students of {records[0].big_model.name} on {dataset}" if records else "",
        loc="left",
        color=INK,
        fontsize=10.5,
        fontweight="bold",
        pad=26,
    )


def _trials(axes: Any, record: SearchRecord, place: int) -> None:
    front = {member.trial_id for member in record.front}
    rest = [trial for trial in shown_trials(record) if trial.trial_id not in front]
    drawn = {"trained fully": (MARKERS[place % 6], MUTED, 16)}
    for name, trials in by_end(rest).items():
        marker, colour, area = drawn.get(name, ("x", FAINT, 14))
        axes.scatter(
            [trial.cost for trial in trials],
            [trial.val_accuracy for trial in trials],
            s=area,
            marker=marker,
            linewidths=0.8,
            zorder=2,
            label=name if place == 0 and trials else None,
            **({"color": colour} if marker == "x" else {"facecolors": "none", "edgecolors": colour}),
        )


def _front(axes: Any, record: SearchRecord, place: int, *, alone: bool) -> None:
    members = by_cost(record.front)
    colour = SERIES[place % len(SERIES)]
    axes.plot(
        [member.cost for member in members],
        [member.val_accuracy for member in members],
        color=colour,
        linestyle=("-", "--", "-.", ":")[place % 4],
        drawstyle="steps-post",
        linewidth=1.5,
        marker=MARKERS[place % len(MARKERS)],
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        zorder=4,
        label="front" if alone else f"front of {record.name}",
    )


def _big_models(axes: Any, records: Sequence[SearchRecord]) -> None:
    seen = set()
    for record in records:
        big = record.big_model
        if big in seen:
            continue
        seen.add(big)
        axes.scatter(
            [big.cost],
            [big.val_accuracy],
            s=70,
            marker="*",
            color=INK,
            zorder=5,
            label="big model" if len(seen) == 1 else None,
        )
        rest = big.references[1:]
        axes.scatter(
            [one.cost for one in rest],
            [one.val_accuracy for one in rest],
            s=45,
            marker="*",
            facecolors="none",
            edgecolors=INK,
            zorder=5,
            label="big model, fp16 and int8" if rest and len(seen) == 1 else None,
        )
        axes.axhline(big.val_accuracy, color=INK, linewidth=0.7, linestyle=(0, (1, 3)), zorder=1)
    for tenth in sorted({0.1 * big.cost for big in seen}):
        axes.axvline(tenth, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            "10 % of the big model",
            (tenth, 0),
            xycoords=("data", "axes fraction"),
            xytext=(4, 5),
            textcoords="offset points",
            color=MUTED,
            fontsize=7.5,
        )


def _legend(axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            names,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=6,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            handletextpad=0.4,
            columnspacing=1.4,
            borderaxespad=0.2,
        )


def _label(axes: Any, records: Sequence[SearchRecord]) -> None:
    """Label the members of the fronts; a member without room for a label gets none."""
    most = MOST_LABELS if len(records) == 1 else 4
    members = [member for record in records for member in some_members(by_cost(record.front), most)]
    cost = common_cost(records)
    texts = [label_text(member, cost) for member in members]
    renderer = axes.figure.canvas.get_renderer()
    scale = DPI / 100
    drawn = [
        axes.text(0, 0, text, fontsize=7.2, color=INK, zorder=3, transform=None, bbox=_HALO) for text in texts
    ]
    sizes = [(extent.width, extent.height) for extent in (one.get_window_extent(renderer) for one in drawn)]
    anchors = [tuple(axes.transData.transform((one.cost, one.val_accuracy))) for one in members]
    placed = place_labels(
        anchors,
        sizes,
        _obstacles(axes, records, scale),
        Box(*axes.bbox.extents),
        gaps=tuple(scale * gap for gap in (5, 9, 14, 22, 34, 48)),
    )
    for text, anchor, box in zip(drawn, anchors, placed, strict=True):
        if box is None:
            text.remove()
        else:
            text.set_position((box.left, box.bottom))
            _leader(axes, anchor, box, scale)


def _leader(axes: Any, anchor: tuple[float, float], box: Box, scale: float) -> None:
    x = min(max(anchor[0], box.left), box.right)
    y = min(max(anchor[1], box.bottom), box.top)
    if (x - anchor[0]) ** 2 + (y - anchor[1]) ** 2 > (13 * scale) ** 2:
        axes.plot([anchor[0], x], [anchor[1], y], transform=None, color=FAINT, linewidth=0.6, zorder=3)


def _obstacles(axes: Any, records: Sequence[SearchRecord], scale: float) -> list[Box]:
    points = [(trial.cost, trial.val_accuracy) for record in records for trial in shown_trials(record)]
    points += [(record.big_model.cost, record.big_model.val_accuracy) for record in records]
    radius = 4 * scale
    pixels = [axes.transData.transform(point) for point in points]
    boxes = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in pixels]
    lines = [box for record in records for box in _steps(axes, record)]
    notes = [Box(*text.get_window_extent().extents) for text in axes.texts if text.get_text()[:2] == "10"]
    return boxes + lines + notes


def _steps(axes: Any, record: SearchRecord) -> list[Box]:
    """Return the front's step line as thin boxes: from each member to the next one's cost, then up."""
    pixels = [axes.transData.transform((one.cost, one.val_accuracy)) for one in by_cost(record.front)]
    boxes = []
    for (x, y), (then_x, then_y) in pairwise(pixels):
        boxes += [Box(x, y - 2, then_x, y + 2), Box(then_x - 2, min(y, then_y), then_x + 2, max(y, then_y))]
    return boxes


def some_members(members: Sequence[FrontMember], most: int = MOST_LABELS) -> list[FrontMember]:
    """Return at most ``most`` (≥ 2) members to label: both ends and evenly between."""
    if len(members) <= most:
        return list(members)
    step = (len(members) - 1) / (most - 1)
    return [members[round(place * step)] for place in range(most)]


def label_text(member: FrontMember, cost: Cost) -> str:
    """Return a label such as ``128 kB, 97.8 %``."""
    return f"{cost.text(member.cost)}, {member.val_accuracy:.1%}".replace("%", " %")
