"""How a search looks in MLflow, as pure functions: events in, changes to runs out.

One experiment per data set; one parent run per search; one child run per trial. Every name, tag and
metric is defined here, and every timestamp comes from the event, so writing the same events twice changes
nothing.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tkd_search.results.costs import COSTS
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import BigModelRecord, EpochRecord, SearchStart
from tkd_search.tracking.event_log import Event

TAG_SEARCH = "tkd.search"
TAG_SEARCH_ID = "tkd.search_id"
TAG_TRIAL = "tkd.trial_id"
TAG_KIND = "tkd.kind"
TAG_STATE = "state"
TAG_REASON = "reason"
TAG_PARETO = "pareto"
TAG_PATH = "tkd.path"
CHANGED = "changed."
SEARCH_LATENCY = COSTS["latency"].unit
"""Metric of the latency that a search minimises, measured before training."""
LATENCY = "latency_ms.batch_"
"""Prefix of the metrics of a shipped file's latency; the batch size follows."""
PARENT = ""
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
ENDED: tuple[RunStatus, ...] = ("FINISHED", "FAILED", "KILLED")
RUN_STATUS: dict[str, RunStatus] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_TAG_LENGTH = 4000


@dataclass(frozen=True)
class Point:
    """One value of one metric; ``time`` in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True, kw_only=True)
class RunChange:
    """A change to one run; ``trial_id`` '' is the parent. Applying it twice changes nothing more."""

    trial_id: str
    name: str = ""
    started: int = 0
    ended: int = 0
    status: RunStatus | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Context:
    """What later events need from earlier ones.

    Attributes:
        first: the search as it was first started. MLflow's parameters never change, so they are its own.
        search: the search as it was last started; an extended search has other budgets.
        big_model: F's figures.
    """

    first: SearchStart | None = None
    search: SearchStart | None = None
    big_model: BigModelRecord | None = None


def fold(context: Context, event: Event) -> Context:
    """Return the context after one more event."""
    if event.kind == "search_started":
        search = from_plain(SearchStart, event.data)
        return replace(context, first=context.first or search, search=search)
    if event.kind == "big_model":
        return replace(context, big_model=from_plain(BigModelRecord, event.data))
    return context


def changes(context: Context, events: Iterable[Event]) -> tuple[RunChange, ...]:
    """Merge events into one change per run, the parent first: one batch each, however many epochs.

    ``context`` must already contain the events themselves (see :func:`fold`). Events that change no run
    (``search_ended``, a driver's own) are left to the caller.
    """
    merged: dict[str, RunChange] = {}
    for event in events:
        for change in _changes(context, event):
            earlier = merged.get(change.trial_id)
            merged[change.trial_id] = change if earlier is None else _merge(earlier, change)
    return tuple(sorted(merged.values(), key=lambda change: change.trial_id != PARENT))


def _merge(first: RunChange, then: RunChange) -> RunChange:
    return RunChange(
        trial_id=first.trial_id,
        name=first.name or then.name,
        started=first.started or then.started,
        ended=then.ended or first.ended,
        status=then.status or first.status,
        params={**first.params, **then.params},
        tags={**first.tags, **then.tags},
        points=first.points + then.points,
    )


def _changes(context: Context, event: Event) -> tuple[RunChange, ...]:
    match event.kind:
        case "search_started":
            return (_search_started(context, event),)
        case "big_model":
            return (_big_model(event),)
        case "trial_started":
            return (_trial_started(context, event),)
        case "epoch":
            return (RunChange(trial_id=event.data["trial_id"], points=_epoch_points(event)),)
        case "trial_ended":
            return _trial_ended(event)
        case "search_stopped":
            tags = {TAG_STATE: "interrupted"}
            return (RunChange(trial_id=PARENT, ended=event.time, status="KILLED", tags=tags),)
    return ()


def _search_started(context: Context, event: Event) -> RunChange:
    """Return the search's change; later settings become ``changed.*`` tags, as parameters never change."""
    assert context.search is not None
    assert context.first is not None
    search, first, now = context.search, _params(context.first), _params(context.search)
    tags = {"dataset.digest": search.dataset_digest, "command": search.command, TAG_STATE: "running"}
    tags |= {f"{CHANGED}{key}": value for key, value in now.items() if first.get(key) != value}
    return RunChange(
        trial_id=PARENT,
        name=search.name,
        started=event.time,
        status="RUNNING",
        params=first,
        tags={key: value for key, value in tags.items() if value},
    )


def _params(search: SearchStart) -> dict[str, str]:
    facts = {key: getattr(search, key) for key in ("name", "dataset", "seed", "classes", "full_budget")}
    return flat_params({**facts, **search.config})


def _big_model(event: Event) -> RunChange:
    record = from_plain(BigModelRecord, event.data)
    figures = {
        "big_model.bytes": record.bytes,
        "big_model.parameters": record.parameters,
        "big_model.val_accuracy": record.val_accuracy,
        "big_model.test_accuracy": record.test_accuracy,
        **_latency("big_model.", record.latency),
    }
    for one in record.references:
        for name in ("bytes", "ratio", "val_accuracy", "test_accuracy"):
            figures[f"reference.{one.format}.{name}"] = getattr(one, name)
        figures |= _latency(f"reference.{one.format}.", one.latency)
    points = tuple(_point(event, key, value, 0) for key, value in figures.items())
    return RunChange(trial_id=PARENT, tags={"big_model": record.name}, points=points)


def _trial_started(context: Context, event: Event) -> RunChange:
    data = event.data
    again = RunChange(trial_id=data["trial_id"], status="RUNNING", tags={TAG_STATE: "running"})
    if data.get("again"):
        return again
    return replace(
        again,
        name=f"{data['trial_id']} {data['student']}",
        started=event.time,
        params=flat_params({"student": data["student"], **data["params"]}),
        points=tuple(_point(event, key, value, 0) for key, value in _size_figures(context, data).items()),
    )


def _size_figures(context: Context, data: Mapping[str, Any]) -> dict[str, float]:
    if not data["bytes"]:
        return {}  # never built: a size of 0 would lead the runs sorted by size
    figures = {"bytes": data["bytes"], "parameters": data["parameters"], **_latency("", data.get("latency"))}
    if context.big_model is not None and context.big_model.bytes:
        figures["ratio"] = data["bytes"] / context.big_model.bytes
    return figures


def _latency(prefix: str, latency: float | None) -> dict[str, float]:
    return {} if latency is None else {f"{prefix}{SEARCH_LATENCY}": latency}


def _epoch_points(event: Event) -> tuple[Point, ...]:
    record = from_plain(EpochRecord, event.data["record"])
    figures = {"val_accuracy": record.val_accuracy, **record.metrics}
    return tuple(_point(event, key, value, record.epoch) for key, value in figures.items())


def _trial_ended(event: Event) -> tuple[RunChange, RunChange]:
    """Return the trial's change, and the search's own figures at that moment."""
    data = event.data
    figures = {**data["search"]}
    step = int(figures.pop("step"))
    trial = RunChange(
        trial_id=data["trial_id"],
        ended=event.time,
        status=RUN_STATUS[data["state"]],
        tags={TAG_STATE: data["state"], TAG_REASON: short(data["reason"] or "full budget", _TAG_LENGTH)},
        points=(_point(event, "trial_seconds", data["seconds"], 0),),
    )
    points = tuple(_point(event, key, value, step) for key, value in figures.items())
    return trial, RunChange(trial_id=PARENT, points=points)


def metric_name(name: str) -> str:
    """Return ``name`` with characters that MLflow refuses replaced: ``#`` by ``::``, others by ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("#", "::"))


def metric_key(name: str) -> str:
    """Return the name that :func:`metric_name` was given, where it ended in a candidate's ``#1``."""
    return re.sub(r"::(\d+)$", r"#\1", name)


def flat_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as MLflow parameters: six significant digits, lists as JSON, at most 500 characters."""
    return {metric_name(key): param_text(value) for key, value in config.items()}


def param_text(value: Any) -> str:
    """Return a value as short text; :func:`param_value` reads it back."""
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.6g}"
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 500)


def param_value(text: str) -> Any:
    """Return the value that :func:`param_text` wrote: a number, boolean, list, or else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def short(text: str, length: int) -> str:
    """Return ``text`` cut to at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _point(event: Event, key: str, value: float, step: int) -> Point:
    number = float(value)
    return Point(metric_name(key), number if math.isfinite(number) else float("nan"), event.time, step)
