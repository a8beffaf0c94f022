"""Write a comparison to MLflow: one run, identified by the comparison's name, with tables and figures."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tkd_search.comparison.paired_statistics import Row
from tkd_search.config.experiment_file import Config
from tkd_search.errors import UserError

TAG_COMPARISON = "tkd.comparison"


def track_comparison(
    config: Config, name: str, rows: Sequence[Row], files: Sequence[Path], store: str = ""
) -> str:
    """Write a comparison's run to a tracking store, unless tracking is off.

    Args:
        config: the experiment.
        name: of the run.
        rows: see :func:`log_comparison`.
        files: likewise.
        store: MLflow tracking URI; the experiment's where it is ''.

    Returns:
        Why it is not there, '' otherwise: the files are written already.
    """
    from tkd_search.tracking.uri import absolute_uri, is_off

    tracking = config.settings().tracking
    uri = tracking.uri or ""
    if is_off(uri):
        return ""
    experiment = tracking.experiment or f"tkd_search/{config.settings().data.name}"
    try:
        log_comparison(store or absolute_uri(uri), experiment, name, rows, files)
    except UserError as error:
        return str(error)
    return ""


def log_comparison(uri: str, experiment: str, name: str, rows: Sequence[Row], files: Sequence[Path]) -> str:
    """Write or overwrite the comparison's run.

    Args:
        uri: MLflow tracking URI.
        experiment: name of the experiment; created if missing.
        name: name of the comparison.
        rows: logged as metrics ``<label>.test_mean``, ``.test_sd``, ``.difference``, ….
        files: logged as artifacts; the Markdown page is also the run's description.

    Returns:
        The run's identifier.

    Raises:
        UserError: the store cannot be reached or refuses the figures.
    """
    from tkd_search.tracking.mlflow.reader import impatient_client

    with impatient_client(uri, make=True) as client:
        return _logged(client, experiment, name, rows, files)


def _logged(client: Any, experiment: str, name: str, rows: Sequence[Row], files: Sequence[Path]) -> str:
    from mlflow.entities import Metric, RunTag

    found = client.get_experiment_by_name(experiment)
    home = found.experiment_id if found is not None else client.create_experiment(experiment)
    condition = f"tags.`{TAG_COMPARISON}` = '{name}'"
    runs = client.search_runs([home], condition, max_results=1)
    tags = {TAG_COMPARISON: name, "tkd.kind": "comparison"}
    run_id = runs[0].info.run_id if runs else client.create_run(home, tags=tags, run_name=name).info.run_id
    page = next((file.read_text(encoding="utf-8") for file in files if file.suffix == ".md"), "")
    now = time.time_ns() // 1_000_000  # of points of equal time MLflow shows the largest
    metrics = [Metric(key, value, now, 0) for row in rows for key, value in _figures(row).items()]
    client.log_batch(run_id, metrics=metrics, tags=[RunTag("mlflow.note.content", page)])
    for file in files:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)
    return str(run_id)


def _figures(row: Row) -> dict[str, float]:
    figures = {"seeds": float(row.seeds), "failed": float(row.failed)}
    if row.seeds:
        figures |= {
            "test_mean": row.test_mean,
            "val_mean": row.val_mean,
            "seconds_per_epoch": row.seconds_per_epoch,
        }
    if row.seeds > 1:
        figures["test_sd"] = row.test_sd
        if row.difference is not None:
            figures |= {"difference": row.difference.mean, "half_width": row.difference.half_width}
    return {f"{row.label}.{key}": value for key, value in figures.items()}
