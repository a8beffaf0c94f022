"""Reads a search back from MLflow, so that its report can be made wherever the store is reachable."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import mlflow.exceptions
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tkd_search.distill.quantization.number_format import FORMATS
from tkd_search.errors import UserError
from tkd_search.masking import masked
from tkd_search.results.records import (
    BigModelRecord,
    EpochRecord,
    FrontMember,
    Reference,
    SearchRecord,
    TrialRecord,
    TrialState,
    by_cost,
)
from tkd_search.tracking.mlflow.layout import (
    CHANGED,
    LATENCY,
    SEARCH_LATENCY,
    TAG_KIND,
    TAG_PARETO,
    TAG_PATH,
    TAG_REASON,
    TAG_SEARCH,
    TAG_STATE,
    TAG_TRIAL,
    metric_key,
    param_value,
)
from tkd_search.tracking.mlflow.store_errors import reason
from tkd_search.tracking.uri import LOGIN, login_to_environment, sqlite_file

_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_OF_A_TRIAL = (
    *("bytes", "parameters", "ratio", "trial_seconds", "test_accuracy", "retention"),
    SEARCH_LATENCY,
)


def read_search(uri: str, parent_run_id: str) -> SearchRecord:
    """Return the record of a search from its parent run.

    Settings have the six digits that MLflow was given. Metric histories are read one by one, because MLflow
    has no other way: about 5 ms each, ten for a trial.

    Raises:
        UserError: the store does not answer, or has no such run.
    """
    with impatient_client(uri) as client:
        parent = client.get_run(parent_run_id)
        children = _children(client, parent)
        trials = tuple(_trial(client, run) for run in children)
        return _record(client, uri, parent, children, trials)


def find_search(uri: str, name: str) -> str:
    """Return the parent run of the newest search of that name, in any experiment.

    Raises:
        UserError: there is none, or the store does not answer.
    """
    with impatient_client(uri) as client:
        experiments = [one.experiment_id for one in client.search_experiments(ViewType.ACTIVE_ONLY)]
        condition = f"tags.`{TAG_SEARCH}` = '{name}' and tags.`{TAG_KIND}` = 'search'"
        order = ["attributes.start_time DESC"]
        found = client.search_runs(experiments, condition, max_results=1, order_by=order)
    if not found:
        raise UserError(masked(uri), f"no search named {name!r}", "the name of a search in this store")
    return str(found[0].info.run_id)


def trial_run(uri: str, parent_run_id: str, trial_id: str) -> str:
    """Return the run of one trial of a search.

    Raises:
        UserError: there is none, or the store does not answer.
    """
    with impatient_client(uri) as client:
        experiment = client.get_run(parent_run_id).info.experiment_id
        condition = f"tags.`mlflow.parentRunId` = '{parent_run_id}' and tags.`{TAG_TRIAL}` = '{trial_id}'"
        found = client.search_runs([experiment], condition, max_results=1)
    if not found:
        raise UserError(masked(uri), f"no trial {trial_id}", "a trial of the search")
    return str(found[0].info.run_id)


def log_files(uri: str, run_id: str, paths: Sequence[Path], folder: str | None = None) -> None:
    """Add files to a run's artifacts, replacing those of the same name.

    Raises:
        UserError: the store does not answer.
    """
    with impatient_client(uri) as client:
        for path in paths:
            client.log_artifact(run_id, str(path), folder)


@contextlib.contextmanager
def impatient_client(uri: str, *, make: bool = False) -> Iterator[Any]:
    """Return a client with short timeouts, for the length of a ``with`` block.

    Args:
        uri: MLflow tracking URI.
        make: whether a store that does not exist may be created.

    Raises:
        UserError: any failure of the store in the block.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists() and not make:
        raise UserError(masked(uri), "no such file", "the store that the search was tracked in")
    # A login of one server must not reach the next one.
    before = {key: os.environ.get(key) for key in (*_IMPATIENT, *LOGIN)}
    os.environ.update(_IMPATIENT)
    try:
        login = login_to_environment(uri)
        yield MlflowClient(tracking_uri=login, registry_uri=login)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        text = reason(error)[:200]
        raise UserError(
            masked(uri),
            f"a tracking store that failed: {text}",
            "a store that runs and knows the search",
            "start it, or set MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD; then give the command again",
        ) from error
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _children(client: Any, parent: Any) -> list[Any]:
    runs, token = [], None
    condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.`{TAG_KIND}` = 'trial'"
    while True:
        page = client.search_runs([parent.info.experiment_id], condition, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return sorted(runs, key=lambda run: (run.info.start_time, run.data.tags[TAG_TRIAL]))


def _trial(client: Any, run: Any) -> TrialRecord:
    data = run.data
    params = {key: param_value(value) for key, value in data.params.items()}
    return TrialRecord(
        trial_id=data.tags[TAG_TRIAL],
        student=str(params.pop("student", "")),
        config=params,
        bytes=int(data.metrics.get("bytes", 0)),
        latency=data.metrics.get(SEARCH_LATENCY),
        parameters=int(data.metrics.get("parameters", 0)),
        state=cast(TrialState, data.tags.get(TAG_STATE, "running")),
        epochs=_epochs(client, run),
        reason=data.tags.get(TAG_REASON, ""),
        seconds=data.metrics.get("trial_seconds", 0.0),
    )


def _epochs(client: Any, run: Any) -> tuple[EpochRecord, ...]:
    skip = {key for key in run.data.metrics if key in _OF_A_TRIAL or key.startswith(LATENCY)}
    epochs: dict[int, dict[str, float]] = {}
    for key in sorted(set(run.data.metrics) - skip):
        for step, value in _history(client, run, key).items():
            epochs.setdefault(step, {})[metric_key(key)] = value
    return tuple(
        EpochRecord(epoch=step, val_accuracy=figures.pop("val_accuracy", math.nan), metrics=figures)
        for step, figures in sorted(epochs.items())
    )


def _history(client: Any, run: Any, key: str) -> dict[int, float]:
    """Return step → value of one metric."""
    if key not in run.data.metrics:
        return {}
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}


def _record(
    client: Any, uri: str, parent: Any, children: list[Any], trials: tuple[TrialRecord, ...]
) -> SearchRecord:
    data = parent.data
    facts = {**data.params, **_changed(data.tags)}
    big = _big_model(data)
    volume, spent = _history(client, parent, "hypervolume"), _history(client, parent, "epochs_spent")
    history = tuple((int(spent[step]), volume[step]) for step in sorted(volume) if step in spent)
    classes = int(facts.get("classes", 1))
    by_id = {trial.trial_id: trial for trial in trials}
    marked = [run for run in children if run.data.tags.get(TAG_PARETO) == "true"]
    front = [_member(run, by_id[run.data.tags[TAG_TRIAL]], big) for run in marked]
    return SearchRecord(
        name=facts.get("name", data.tags.get(TAG_SEARCH, "")),
        dataset=facts.get("dataset", ""),
        seed=int(facts.get("seed", 0)),
        classes=classes,
        status=cast(Literal["complete", "interrupted", "running"], data.tags.get(TAG_STATE, "running")),
        big_model=big,
        trials=trials,
        front=by_cost(front),
        full_budget=int(facts.get("full_budget", 0)),
        hypervolume=data.metrics.get("final_hypervolume", history[-1][1] if history else 0.0),
        reference_point=(float(big.cost), 1 / classes),
        wall_seconds=data.metrics.get("wall_seconds", 0.0),
        history=history,
        tracking_uri=masked(uri),
        experiment_id=parent.info.experiment_id,
        parent_run_id=parent.info.run_id,
        method="" if any("method.name" in trial.config for trial in trials) else facts.get("method.name", ""),
        metric=facts.get("search.metric", "accuracy"),
        cost=facts.get("search.cost", "bytes"),
    )


def _changed(tags: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(CHANGED): value for key, value in tags.items() if key.startswith(CHANGED)}


def _big_model(data: Any) -> BigModelRecord:
    figures: Mapping[str, float] = data.metrics
    return BigModelRecord(
        name=data.tags.get("big_model", ""),
        bytes=int(figures.get("big_model.bytes", 0)),
        latency=figures.get(f"big_model.{SEARCH_LATENCY}"),
        parameters=int(figures.get("big_model.parameters", 0)),
        val_accuracy=figures.get("big_model.val_accuracy", math.nan),
        test_accuracy=figures.get("big_model.test_accuracy", math.nan),
        references=tuple(
            Reference(
                format=format,
                bytes=int(figures[f"reference.{format}.bytes"]),
                latency=figures.get(f"reference.{format}.{SEARCH_LATENCY}"),
                ratio=figures[f"reference.{format}.ratio"],
                val_accuracy=figures[f"reference.{format}.val_accuracy"],
                test_accuracy=figures[f"reference.{format}.test_accuracy"],
            )
            for format in FORMATS
            if f"reference.{format}.bytes" in figures
        ),
    )


def _member(run: Any, trial: TrialRecord, big: BigModelRecord) -> FrontMember:
    figures = run.data.metrics
    latency = {key.removeprefix(LATENCY): value for key, value in figures.items() if key.startswith(LATENCY)}
    return FrontMember(
        trial_id=trial.trial_id,
        student=trial.student,
        bytes=trial.bytes,
        latency=trial.latency,
        parameters=trial.parameters,
        ratio=figures.get("ratio", trial.bytes / big.bytes if big.bytes else math.nan),
        val_accuracy=trial.val_accuracy,
        test_accuracy=figures.get("test_accuracy", math.nan),
        retention=figures.get("retention", math.nan),
        config=trial.config,
        path=run.data.tags.get(TAG_PATH, ""),
        latency_ms={int(size): value for size, value in sorted(latency.items(), key=lambda one: int(one[0]))},
    )
