"""Links each trial to its page in the tracking store."""

from pathlib import Path
from urllib.parse import quote

from tkd_search.results.records import SearchRecord
from tkd_search.tracking.mlflow.layout import TAG_TRIAL
from tkd_search.tracking.mlflow.writer_status import read_runs
from tkd_search.tracking.uri import run_url


def trial_links(record: SearchRecord, tracking: Path) -> dict[str, str]:
    """Return trial identifier → URL; empty where the tracking URI is not an http address.

    The writer notes each trial's run in ``mlflow/runs.json``. A trial that is not in there links to the
    experiment's list, filtered to that trial.
    """
    uri = record.tracking_uri
    if not uri.startswith(("http://", "https://")) or not record.experiment_id:
        return {}
    runs = read_runs(tracking).get(record.parent_run_id, {})
    links = {}
    for trial in record.trials:
        search = quote(f"tags.`{TAG_TRIAL}` = '{trial.trial_id}'")
        page = f"{uri.rstrip('/')}/#/experiments/{record.experiment_id}/runs"
        listed = f"{page}?workflowType=machine_learning&searchFilter={search}"
        run = runs.get(trial.trial_id, "")
        links[trial.trial_id] = run_url(uri, record.experiment_id, run) or listed
    return links
