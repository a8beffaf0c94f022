"""Builds the report's interactive charts (plotly)."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tkd_search.report.figures import (
    accuracy_window,
    by_end,
    common_cost,
    config_lines,
    cost_window,
    measures,
    shown_trials,
    tap_shares,
)
from tkd_search.report.importance import Importances
from tkd_search.report.style import FAINT, INK, MUTED, RULE, SERIES, SYMBOLS, cost_ticks
from tkd_search.results.costs import COSTS, Costed
from tkd_search.results.records import BigModelRecord, FrontMember, SearchRecord, TrialRecord, by_cost
from tkd_search.units import human_bytes, milliseconds, percent

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'
MOST_BARS = 14


def _layout(figure: Any, height: int, **more: Any) -> Any:
    axis = {
        "gridcolor": RULE,
        "linecolor": FAINT,
        "zeroline": False,
        "automargin": True,
        "tickfont": {"color": MUTED, "size": 12},
    }
    figure.update_layout(
        height=height,
        template="none",
        font={"family": _FONT, "size": 13, "color": INK},
        margin={"l": 12, "r": 12, "t": 12, "b": 12},
        hoverlabel={
            "bgcolor": "white",
            "bordercolor": FAINT,
            "font": {"family": _FONT, "color": INK, "size": 12},
            "align": "left",
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": MUTED},
        **more,
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def front_chart(
    records: Sequence[SearchRecord], links: Mapping[str, Mapping[str, str]]
) -> tuple[Any | None, int]:
    """Return cost against accuracy, and how many trials lie below its first window; None without trials."""
    if not any(map(shown_trials, records)):
        return None, 0
    figure = go.Figure()
    for place, record in enumerate(records):
        _trials(figure, record, place, links[record.name], several=len(records) > 1)
    for place, record in enumerate(records):
        _front(figure, record, place, links[record.name], several=len(records) > 1)
    _big_models(figure, records)
    cost = common_cost(records)
    low, high = cost_window(records)
    bottom, top = accuracy_window(records)
    ticks = cost_ticks(low, high)
    _layout(figure, 520)
    figure.update_xaxes(
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=ticks,
        ticktext=[cost.text(tick) for tick in ticks],
        title={"text": f"{cost.axis} (log scale)", "font": {"size": 12, "color": MUTED}},
    )
    title = {"text": f"validation {measures(records)}", "font": {"size": 12, "color": MUTED}, "standoff": 16}
    figure.update_yaxes(range=[bottom, top], tickformat=".1%", title=title)
    hidden = sum(trial.val_accuracy < bottom for record in records for trial in shown_trials(record))
    return figure, hidden


def _trials(
    figure: Any, record: SearchRecord, place: int, links: Mapping[str, str], *, several: bool
) -> None:
    front = {member.trial_id for member in record.front}
    rest = [trial for trial in shown_trials(record) if trial.trial_id not in front]
    colour = SERIES[place % len(SERIES)] if several else MUTED
    suffix = f", {record.name}" if several else ""
    drawn = {"trained fully": (0.75, SYMBOLS[place % 6])}
    for name, trials in by_end(rest).items():
        opacity, symbol = drawn.get(name, (0.35, "x-thin"))
        if trials:
            line = {"width": 1.2, "color": colour}
            marker = {
                "symbol": f"{symbol}-open",
                "size": 7,
                "opacity": opacity,
                "color": colour,
                "line": line,
            }
            _points(figure, record, trials, links, f"{name}{suffix}", mode="markers", marker=marker)


def _front(figure: Any, record: SearchRecord, place: int, links: Mapping[str, str], *, several: bool) -> None:
    by_id = {trial.trial_id: trial for trial in record.trials}
    members = [member for member in by_cost(record.front) if member.trial_id in by_id]
    if not members:
        return
    colour = SERIES[place % len(SERIES)]
    _points(
        figure,
        record,
        [by_id[member.trial_id] for member in members],
        links,
        f"front of {record.name}" if several else "front",
        members={member.trial_id: member for member in members},
        mode="lines+markers",
        line={"color": colour, "width": 2, "shape": "hv"},
        marker={"symbol": SYMBOLS[place % 6], "size": 10, "line": {"color": "white", "width": 1.2}},
    )


def _points(
    figure: Any,
    record: SearchRecord,
    trials: Sequence[TrialRecord],
    links: Mapping[str, str],
    name: str,
    members: Mapping[str, FrontMember] | None = None,
    **look: Any,
) -> None:
    texts = [hover(trial, record, (members or {}).get(trial.trial_id)) for trial in trials]
    figure.add_trace(
        go.Scatter(
            x=[trial.cost for trial in trials],
            y=[trial.val_accuracy for trial in trials],
            name=name,
            customdata=[
                [links.get(trial.trial_id, ""), text] for trial, text in zip(trials, texts, strict=True)
            ],
            hovertemplate="%{customdata[1]}<extra></extra>",
            **look,
        )
    )


def hover(trial: TrialRecord, record: SearchRecord, member: FrontMember | None) -> str:
    """Return a point's hover text in the HTML that plotly supports."""
    ratio = trial.bytes / record.big_model.bytes if record.big_model.bytes else float("nan")
    lines = [
        f"<b>{html.escape(trial.student)}</b>  trial {html.escape(trial.trial_id)}",
        f"{human_bytes(trial.bytes)}, {percent(ratio, 1)} of F, {trial.parameters:,} parameters",
        *([] if trial.latency is None else [f"{milliseconds(trial.latency)} for one image"]),
        f"validation {percent(trial.val_accuracy)} after {trial.epochs_trained} epochs",
    ]
    if member is not None:
        lines.append(f"test {percent(member.test_accuracy)}, {percent(member.retention, 1)} of F's kept")
        lines += [
            f"{milliseconds(value)} for batch {size}" for size, value in sorted(member.latency_ms.items())
        ]
    if trial.state != "complete":
        lines.append(html.escape(f"{trial.state}: {trial.reason}" if trial.reason else trial.state))
    settings = [html.escape(line) for line in config_lines(trial.config)]
    pairs = [" · ".join(settings[place : place + 2]) for place in range(0, len(settings), 2)]
    return "<br>".join([*lines, "", *pairs])  # two a line: a label higher than the chart is cut off


def _costs(model: Costed) -> str:
    """Return the bytes of a model, and its latency where the search minimises it."""
    size = human_bytes(model.bytes)
    return size if model.latency is None else f"{size}, {milliseconds(model.latency)}"


def _references(figure: Any, big: BigModelRecord, *, first: bool) -> None:
    """Draw the big model in smaller formats."""
    rest = big.references[1:]
    texts = [
        f"<b>{html.escape(big.name)}</b> in {one.format}, without training<br>{_costs(one)}, "
        f"ratio {one.ratio:.3f}<br>validation {percent(one.val_accuracy)}, test {percent(one.test_accuracy)}"
        for one in rest
    ]
    if rest:
        figure.add_trace(
            go.Scatter(
                x=[one.cost for one in rest], y=[one.val_accuracy for one in rest],
                mode="markers+text", name="big model, smaller format",
                text=[one.format for one in rest], textposition="bottom center",
                marker={"symbol": "star-open", "size": 12, "color": INK},
                legendgroup="references", showlegend=first,
                customdata=[["", text] for text in texts], hovertemplate="%{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip


def _big_models(figure: Any, records: Sequence[SearchRecord]) -> None:
    models = dict.fromkeys(record.big_model for record in records)
    for place, big in enumerate(models):
        text = (
            f"<b>{html.escape(big.name)}</b>, the big model F<br>{_costs(big)}, "
            f"{big.parameters:,} parameters<br>validation {percent(big.val_accuracy)}, "
            f"test {percent(big.test_accuracy)}"
        )
        marker = {"symbol": "star", "size": 15, "color": INK}
        figure.add_trace(
            go.Scatter(
                x=[big.cost], y=[big.val_accuracy], mode="markers", name="big model", marker=marker,
                legendgroup="big model", showlegend=place == 0,
                customdata=[["", text]], hovertemplate="%{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
        _references(figure, big, first=place == 0)
        figure.add_hline(y=big.val_accuracy, line={"color": INK, "width": 1, "dash": "dot"}, opacity=0.5)
    for tenth in sorted({0.1 * big.cost for big in models}):
        figure.add_vline(x=tenth, line={"color": MUTED, "width": 1, "dash": "dash"}, opacity=0.8)
        figure.add_annotation(
            x=math.log10(tenth),  # annotations on a logarithmic axis are placed by exponent
            y=0,
            yref="paper",
            text="10 % of the big model",
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            xshift=3,
            font={"size": 11, "color": MUTED},
        )


def importance_chart(found: Importances) -> Any:
    """Return the settings by importance, the most important on top."""
    ranking = found.ranking[:MOST_BARS][::-1]
    bar = go.Bar(
        y=[one.name for one in ranking],
        x=[max(one.share, 0.0) for one in ranking],
        error_x={"array": [one.error for one in ranking], "color": MUTED, "thickness": 1, "width": 0},
        orientation="h",
        marker={"color": SERIES[0], "opacity": 0.85},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure = _layout(go.Figure(bar), 90 + 24 * len(ranking), showlegend=False, bargap=0.45)
    figure.update_xaxes(tickformat=".2~%", rangemode="tozero")
    figure.update_yaxes(gridcolor="rgba(0,0,0,0)", ticksuffix="  ")
    return figure


def taps_chart(record: SearchRecord) -> Any | None:
    """Return the candidates by how often they were teachers; None where no trial had teachers."""
    shares = tap_shares(record)[:MOST_BARS][::-1]
    if not shares:
        return None
    names = [tap.name for tap in shares]
    hover_text = [
        f"{html.escape(tap.name)}: selected in {percent(tap.share, 1)} of the epochs, "
        f"{percent(tap.front_share, 1)} on the front; mean weight {tap.weight:.2f}"
        for tap in shares
    ]
    template = "%{customdata}<extra></extra>"
    bar = go.Bar(y=names, x=[tap.share for tap in shares], orientation="h", name="all trials",
                 marker={"color": "#9fb6c9"}, customdata=hover_text, hovertemplate=template)  # fmt: skip
    dot = go.Scatter(y=names, x=[tap.front_share for tap in shares], mode="markers", name="front",
                     marker={"color": SERIES[0], "size": 9, "line": {"color": "white", "width": 1}},
                     customdata=hover_text, hovertemplate=template)  # fmt: skip
    figure = _layout(go.Figure([bar, dot]), 110 + 24 * len(shares), bargap=0.45)
    figure.update_xaxes(tickformat=".2~%", rangemode="tozero")
    figure.update_yaxes(gridcolor="rgba(0,0,0,0)", ticksuffix="  ")
    return figure


def hypervolume_chart(records: Sequence[SearchRecord]) -> Any | None:
    """Return hypervolume over epochs spent; None where no trial completed."""
    if not any(volume > 0 for record in records for _, volume in record.history):
        return None
    figure = go.Figure()
    for place, record in enumerate(records):
        figure.add_trace(
            go.Scatter(
                x=[spent for spent, _ in record.history],
                y=[volume for _, volume in record.history],
                name=record.name,
                mode="lines",
                line={"shape": "hv", "width": 2, "color": SERIES[place % len(SERIES)]},
                hovertemplate="%{y:.4f} after %{x:,} epochs<extra></extra>",
            )
        )
    _layout(figure, 320, showlegend=len(records) > 1)
    figure.update_xaxes(title={"text": "epochs spent by all trials", "font": {"size": 12, "color": MUTED}})
    figure.update_yaxes(tickformat=".3f")
    return figure


def learning_chart(record: SearchRecord) -> Any | None:
    """Return validation accuracy over epochs of the front's members, darker where costlier; or None."""
    by_id = {trial.trial_id: trial for trial in record.trials}
    members = [member for member in by_cost(record.front) if member.trial_id in by_id]
    if not members:
        return None
    figure = go.Figure()
    for place, member in enumerate(members):
        epochs = by_id[member.trial_id].epochs
        name = f"{COSTS[record.cost].text(member.cost)} · {html.escape(member.student)}"
        figure.add_trace(
            go.Scatter(
                x=[epoch.epoch for epoch in epochs],
                y=[epoch.val_accuracy for epoch in epochs],
                name=name,
                mode="lines",
                line={"width": 1.6, "color": shade(place / max(len(members) - 1, 1))},
                hovertemplate=f"{name}<br>%{{y:.2%}} after epoch %{{x}}<extra></extra>",
            )
        )
    _layout(figure, 320, showlegend=False)
    figure.update_xaxes(title={"text": "epoch", "font": {"size": 12, "color": MUTED}})
    figure.update_yaxes(tickformat=".0%")
    return figure


def shade(share: float) -> str:
    """Return a blue from pale (0) to dark (1) that is visible on white."""
    pale, dark = (150, 197, 228), (8, 48, 95)
    mixed = (round(a + (b - a) * share) for a, b in zip(pale, dark, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"
