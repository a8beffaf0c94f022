"""Writes ``pareto.html``: the interactive report in one file that needs no network."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from tkd_search.files import write_text
from tkd_search.report import charts
from tkd_search.report.figures import common_cost, measures
from tkd_search.report.importance import importances
from tkd_search.report.run_links import trial_links
from tkd_search.report.style import FAINT, INK, MUTED, RULE
from tkd_search.results.costs import COSTS
from tkd_search.results.failure_reasons import reason_lines
from tkd_search.results.records import SearchRecord, by_cost
from tkd_search.results.summary import epochs_spent
from tkd_search.tracking.uri import run_url
from tkd_search.units import human_bytes, metric_text, milliseconds, percent

_STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #fff; color: {INK};
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 36px 28px 64px; }}
h1 {{ font-size: 24px; font-weight: 650; margin: 0 0 4px; letter-spacing: -.01em; }}
h2 {{ font-size: 16px; font-weight: 650; margin: 0 0 2px; }}
p {{ margin: 0 0 8px; max-width: 100ch; }}
.muted, .note {{ color: {MUTED}; }}
.note {{ font-size: 13px; }}
.figures {{ display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 18px 0 22px; padding: 0;
  list-style: none; }}
.figures b {{ display: block; font-size: 21px; font-weight: 620; font-variant-numeric: tabular-nums; }}
.figures span {{ color: {MUTED}; font-size: 13px; }}
section {{ margin-top: 34px; }}
.two {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 36px 40px;
  margin-top: 38px; }}
.two section {{ margin: 0; min-width: 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th {{ text-align: right; font-weight: 500; color: {MUTED}; border-bottom: 1px solid {FAINT};
  padding: 5px 10px; }}
td {{ text-align: right; border-bottom: 1px solid {RULE}; padding: 6px 10px; white-space: nowrap; }}
th.l, td.l {{ text-align: left; }}
a {{ color: #0b5fa5; text-decoration: none; }} a:hover {{ text-decoration: underline; }}
@media (max-width: 860px) {{ .two {{ grid-template-columns: 1fr; }} main {{ padding: 20px 14px; }} }}
@media print {{ section {{ break-inside: avoid; }} }}
"""
_CLICK = """
document.getElementById('{plot_id}').on('plotly_click', function (event) {
  var address = event.points[0].customdata && event.points[0].customdata[0];
  if (address) { window.open(address, '_blank', 'noopener'); }
});
"""


def write_page(records: Sequence[SearchRecord], path: Path, tracking: Path) -> Path:
    """Write the report, atomically.

    Args:
        records: one search or several.
        path: the HTML file.
        tracking: ``<run>/mlflow``, which maps each trial to its run in the tracking store.
    """
    write_text(path, render(records, tracking))
    return path


def render(records: Sequence[SearchRecord], tracking: Path) -> str:
    """Return the whole page as text, with plotly's code (4.8 MB) where there is a chart."""
    links = {record.name: trial_links(record, tracking) for record in records}
    title = ", ".join(record.name for record in records)
    body = "".join(
        (
            _heading(records),
            _main_chart(records, links),
            *(_front(record, links[record.name], several=len(records) > 1) for record in records),
            '<div class="two">',
            _details(records),
            "</div>",
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} · Pareto front</title><style>{_STYLE}</style>{_code(body)}</head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _code(body: str) -> str:
    """Return plotly's JavaScript."""
    local = "window.PlotlyConfig = {MathJaxConfig: 'local'};"
    return f"<script>{local}</script><script>{get_plotlyjs()}</script>" if "Plotly.newPlot" in body else ""


def _heading(records: Sequence[SearchRecord]) -> str:
    if len(records) > 1:
        names = html.escape(", ".join(record.name for record in records))
        return f"<h1>{names}</h1><p class='muted'>{len(records)} searches side by side.</p>"
    record = records[0]
    big, states = record.big_model, [trial.state for trial in record.trials]
    spent = epochs_spent(record.trials)
    slow = sum(trial.not_trained for trial in record.trials)
    ends = f"{states.count('stopped') - slow} stopped early, {states.count('failed')} failed"
    figures = (
        (str(len(record.front)), "students on the front"),
        (f"{record.hypervolume:.4f}", "hypervolume, 0 to 1"),
        (str(len(states)), f"trials: {ends}{f', {slow} too slow to train' if slow else ''}"),
        (f"{spent:,}", f"epochs; {record.full_budget} make a full training"),
        (
            human_bytes(big.bytes),
            f"big model, {metric_text(record.metric)} {percent(big.test_accuracy)} on test",
        ),
        (f"{record.wall_seconds:,.0f} s", "wall time"),
    )
    cells = "".join(f"<li><b>{html.escape(a)}</b><span>{html.escape(b)}</span></li>" for a, b in figures)
    page = run_url(record.tracking_uri, record.experiment_id, record.parent_run_id)
    link = f" · <a href='{html.escape(page)}'>its page in MLflow</a>" if page else ""
    return (
        f"<h1>{html.escape(record.name)}</h1><p class='muted'>Students of {html.escape(big.name)} on "
        f"{html.escape(record.dataset)}, seed {record.seed}, {record.status}{link}</p>"
        f"<ul class='figures'>{cells}</ul>"
    )


def _main_chart(records: Sequence[SearchRecord], links: dict[str, dict[str, str]]) -> str:
    figure, hidden = charts.front_chart(records, links)
    if figure is None:
        return ""
    weaker = "weaker trial lies" if hidden == 1 else "weaker trials lie"
    below = f"{hidden} {weaker} below this window: double-click to see everything. " if hidden else ""
    click = "Click a point to open the trial's page. " if any(links.values()) else ""
    title = common_cost(records).noun.capitalize()
    note = f"{below}{click}Hover for a trial's settings; drag to zoom."
    return (
        f"<section><h2>{title} against {measures(records)}</h2><p class='note'>Validation "
        f"{measures(records)}; up and to the left is "
        f"better. {note}</p>{_plot(figure, 'front', main=True, click=any(links.values()))}</section>"
    )


def _details(records: Sequence[SearchRecord]) -> str:
    sections = []
    for record in records:
        suffix = f" · {record.name}" if len(records) > 1 else ""
        sections += [_importance(record, suffix), _taps(record, suffix)]
    if (grown := charts.hypervolume_chart(records)) is not None:
        sections.append(_section("Hypervolume over epochs", "", grown, "hypervolume"))
    for place, record in enumerate(records):
        suffix = f" · {record.name}" if len(records) > 1 else ""
        text = f"Validation {metric_text(record.metric)} of the front's members; darker costs more."
        if (curves := charts.learning_chart(record)) is not None:
            sections.append(_section(f"Learning curves{suffix}", text, curves, f"learning{place}"))
    return "".join(sections)


def _importance(record: SearchRecord, suffix: str) -> str:
    cost = COSTS[record.cost].noun
    title = f"What mattered, at a given {cost}{suffix}"
    found = importances(record)
    if found is None:
        return f"<section><h2>{html.escape(title)}</h2><p class='note'>Too few trials to tell.</p></section>"
    trust = "" if found.explained > 0.2 else " That is little: take the ranking as a hint at most."
    if found.explained <= 0:
        trust = " So few trials tell nothing of single settings: the order below is chance."
    text = (
        f"For each trial: is it above what is usual for its {cost}, at the epoch it reached? Share of that "
        "figure's variance that is lost when a setting is shuffled in held-out trials, ± standard error. All "
        f"settings together explain {max(found.explained, 0):.0%}, over {found.trials} trials.{trust}"
    )
    return _section(title, text, charts.importance_chart(found), f"importance-{record.name}")


def _taps(record: SearchRecord, suffix: str) -> str:
    title = f"Which features of the big model taught{suffix}"
    figure = charts.taps_chart(record)
    if figure is None:
        text = "No trial had generated teachers."
        return f"<section><h2>{html.escape(title)}</h2><p class='note'>{text}</p></section>"
    text = (
        "Share of the epochs in which a candidate was selected as a teacher; dots: the front's trials only. "
        "A feature whose name ends in # and a number is a random half of its channels."
    )
    return _section(title, text, figure, f"taps-{record.name}")


def _section(title: str, note: str, figure: Any, name: str) -> str:
    return (
        f"<section><h2>{html.escape(title)}</h2><p class='note'>{html.escape(note)}</p>"
        f"{_plot(figure, name)}</section>"
    )


def _plot(figure: Any, name: str, *, main: bool = False, click: bool = False) -> str:
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id="".join(letter if letter.isalnum() else "-" for letter in name),
            post_script=_CLICK if click else None,
            config={
                "displaylogo": False,
                "displayModeBar": "hover" if main else False,
                "responsive": True,
                "scrollZoom": False,
                "modeBarButtons": [["toImage", "resetScale2d"]],  # more would cover a narrow page's legend
                "toImageButtonOptions": {"format": "svg", "filename": name},
            },
        )
    )


def _front(record: SearchRecord, links: dict[str, str], *, several: bool) -> str:
    if not record.front:
        return _no_front(record, several=several)
    latency = sorted({size for member in record.front for size in member.latency_ms})
    by_latency = record.cost == "latency"
    names = [
        *(["latency"] if by_latency else []),
        "size",
        "of F",
        "parameters",
        "validation",
        "test",
        "kept",
        *(f"batch {size}" for size in latency),
    ]
    head = "<th class='l'>trial</th><th class='l'>student</th><th class='l'>method</th>" + "".join(
        f"<th>{name}</th>" for name in names
    )
    rows = []
    for member in by_cost(record.front):
        trial, page = html.escape(member.trial_id), html.escape(links.get(member.trial_id, ""))
        cells = [
            *([milliseconds(member.cost)] if by_latency else []),
            human_bytes(member.bytes),
            percent(member.ratio, 1),
            f"{member.parameters:,}",
            percent(member.val_accuracy),
            percent(member.test_accuracy),
            percent(member.retention, 1),
            *(
                milliseconds(member.latency_ms[size]) if size in member.latency_ms else "–"
                for size in latency
            ),
        ]
        first = f"<a href='{page}' target='_blank' rel='noopener'>{trial}</a>" if page else trial
        rows.append(
            f"<tr><td class='l'>{first}</td><td class='l'>{html.escape(member.student)}</td>"
            f"<td class='l'>{html.escape(record.method_of(member))}</td>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    title = f"The front of {record.name}" if several else "The front"
    note = (
        "Chosen on validation figures; test was measured once, afterwards. “Kept” is test "
        f"{metric_text(record.metric)} divided by the big model's."
    )
    if by_latency:
        note += " Latency: time of one image before training, by which the search chose."
    if latency:
        note += " Batch n: time of n images through the shipped file on one CPU thread where it was searched."
    return (
        f"<section><h2>{html.escape(title)}</h2><p class='note'>{note}</p><div class='scroll'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _no_front(record: SearchRecord, *, several: bool) -> str:
    """Return why there is no front, to stand in its place."""
    title = html.escape(f"The front of {record.name}" if several else "The front")
    if any(trial.state == "complete" for trial in record.trials):
        note = "<p class='note'>The front is chosen when the search ends.</p>"
    else:
        note = _none_complete(record)
    return f"<section><h2>{title}</h2>{note}</section>"


def _none_complete(record: SearchRecord) -> str:
    yet = "" if record.status == "complete" else " yet"
    lines = reason_lines(trial for trial in record.trials if trial.state in ("failed", "stopped"))
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    why = f" Why trials ended:</p><ul>{items}</ul>" if items else "</p>"
    return f"<p>No trial has completed{yet}, so there is no front.{why}"
