"""Where a click on a trial leads: its page in the tracking store, where that has pages."""

from pathlib import Path
from urllib.parse import quote

from tkd_search.results.records import SearchRecord
from tkd_search.tracking.mlflow.layout import TAG_TRIAL
from tkd_search.tracking.mlflow.writer_status import read_runs
from tkd_search.tracking.uri import run_url


def trial_links(record: SearchRecord, tracking: Path) -> dict[str, str]:
    """Trial identifier → address; empty where the tracking URI is no http address.

    The writer notes each trial's run in ``tracking/runs.json``; a trial that is not in there yet leads
    to the experiment's list, filtered to it.
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
