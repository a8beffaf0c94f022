"""Writes the layout to MLflow, so that writing something twice equals writing it once.

Runs are looked up by their tags before they are created. Metric points carry the time of their event (MLflow
stores one point per metric, step, time and value). Artifacts are overwritten, and model versions are looked
up by tag. A slow server may carry out a request after its timeout and leave a second run:
:meth:`MlflowStore.reconcile` deletes it. A run that a user deleted is restored once something is written to
it, the parent with its trials.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow.exceptions
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag, ViewType

from tkd_search.masking import masked
from tkd_search.results.records import SearchStart
from tkd_search.tracking.mlflow.layout import (
    ENDED,
    PARENT,
    TAG_KIND,
    TAG_SEARCH,
    TAG_SEARCH_ID,
    TAG_TRIAL,
    RunChange,
    short,
)
from tkd_search.tracking.uri import StoreIds

Refuse = Callable[[dict[str, Any]], None]
_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "MALFORMED_REQUEST"}
_CHUNKS = {"metrics": 1000, "params": 100, "tags": 100}


def is_permanent(error: Exception) -> bool:
    """Return whether a store will always refuse the request: it is then noted and skipped, not retried."""
    code = getattr(error, "error_code", "")
    return isinstance(error, mlflow.exceptions.MlflowException) and code in _PERMANENT


class MlflowStore:
    """One search's runs in one MLflow store.

    Args:
        uri: tracking URI; the model registry is the same store.
        search_id: the tag by which the search's runs are found.
        search: gives the runs' names.
        experiment: name of the experiment that holds them.
        refuse: called with every entry that MLflow will never take.
    """

    def __init__(
        self, uri: str, search_id: str, search: SearchStart, experiment: str, refuse: Refuse
    ) -> None:
        self.uri, self.search_id, self.search, self._refuse = uri, search_id, search, refuse
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._name, self._experiment = experiment, ""
        self._runs: dict[str, str] = {}

    def forget(self) -> None:
        """Forget all identifiers, because the store failed or a user deleted a run."""
        self._experiment = ""
        self._runs.clear()

    def ids(self) -> StoreIds:
        """Return the search's identifiers; create experiment and parent run if missing."""
        parent = self.run(PARENT)
        return StoreIds(tracking_uri=masked(self.uri), experiment_id=self.experiment(), parent_run_id=parent)

    def known_runs(self) -> dict[str, str]:
        """Return trial identifier → MLflow run, of the trials written since :meth:`forget`."""
        return {trial: run for trial, run in self._runs.items() if trial != PARENT}

    def experiment(self) -> str:
        """Return the experiment, found by name, restored if deleted, created if missing."""
        if not self._experiment:
            found = self.client.get_experiment_by_name(self._name)
            if found is None:
                self._experiment = self.client.create_experiment(self._name)
            else:
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                self._experiment = found.experiment_id
        return self._experiment

    def run(self, trial_id: str, name: str = "", started: int = 0) -> str:
        """Return the MLflow run of a trial ('' = the parent): cached, found by tag, or created."""
        if trial_id not in self._runs:
            parent = "" if trial_id == PARENT else self.run(PARENT)
            found = self._find(trial_id)
            self._runs[trial_id] = found or self._create(trial_id, parent, name, started)
        return self._runs[trial_id]

    def _create(self, trial_id: str, parent: str, name: str, started: int) -> str:
        tags = {TAG_SEARCH: self.search.name, TAG_SEARCH_ID: self.search_id, TAG_KIND: "search"}
        if trial_id != PARENT:
            tags |= {TAG_KIND: "trial", TAG_TRIAL: trial_id, "mlflow.parentRunId": parent}
        name = name or trial_id or self.search.name
        made = self.client.create_run(self.experiment(), started or None, tags, name)
        return str(made.info.run_id)

    def _find(self, trial_id: str) -> str:
        """Return the run of a trial, '' if none; of several, keep the fullest and delete the others.

        Without one, the fullest deleted run is restored.
        """
        condition = (
            f"tags.`{TAG_KIND}` = 'search'" if trial_id == PARENT else f"tags.`{TAG_TRIAL}` = '{trial_id}'"
        )
        found = self._search(condition)
        for run in found[1:]:
            self.client.delete_run(run.info.run_id)
        if not found:
            found = self._search(condition, ViewType.DELETED_ONLY)
            if found:
                self.client.restore_run(found[0].info.run_id)
            if found and trial_id == PARENT:
                self._restore_trials()
        return str(found[0].info.run_id) if found else ""

    def _restore_trials(self) -> None:
        deleted = self._search(f"tags.`{TAG_KIND}` = 'trial'", ViewType.DELETED_ONLY)
        for trial_id in {run.data.tags[TAG_TRIAL] for run in deleted} - self.children().keys():
            self._find(trial_id)

    def _search(self, condition: str, view: int = ViewType.ACTIVE_ONLY) -> list[Any]:
        """Return the search's runs under a condition, the one with the most metrics first."""
        runs: list[Any] = []
        token = None
        text = f"tags.`{TAG_SEARCH_ID}` = '{self.search_id}'" + (f" and {condition}" if condition else "")
        while True:
            page = self.client.search_runs(
                [self.experiment()], text, view, max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: (-len(run.data.metrics), run.info.start_time))

    def children(self) -> dict[str, Any]:
        """Return trial identifier → MLflow run, for every trial of the search."""
        runs = self._search(f"tags.`{TAG_KIND}` = 'trial'")
        return {run.data.tags[TAG_TRIAL]: run for run in runs}

    def apply(self, change: RunChange) -> None:
        """Write one run's change: one batch, and its status."""
        run_id = self.run(change.trial_id, change.name, change.started)
        self.log(
            run_id,
            metrics=[Metric(one.key, one.value, one.time, one.step) for one in change.points],
            params=[Param(key, value) for key, value in change.params.items()],
            tags=[RunTag(key, value) for key, value in change.tags.items()],
        )
        if change.status in ENDED:
            self.client.set_terminated(run_id, change.status, change.ended or None)
        elif change.status:
            self.client.update_run(run_id, status=change.status)

    def log(self, run_id: str, **entries: Sequence[Any]) -> None:
        """Write metrics, parameters and tags in as few batches as MLflow's limits allow."""
        rounds = max((-(-len(many) // _CHUNKS[kind]) for kind, many in entries.items()), default=0)
        for part in range(rounds):
            some = {
                kind: many[part * _CHUNKS[kind] : (part + 1) * _CHUNKS[kind]]
                for kind, many in entries.items()
            }
            self._log_some(run_id, {kind: many for kind, many in some.items() if many})

    def _log_some(self, run_id: str, entries: Mapping[str, Sequence[Any]]) -> None:
        """Write a batch; where MLflow refuses an entry, find it by halving and write the others."""
        try:
            self.client.log_batch(
                run_id, synchronous=True, **{key: list(many) for key, many in entries.items()}
            )
        except Exception as error:
            if not is_permanent(error):
                raise
            if self.client.get_run(run_id).info.lifecycle_stage == "deleted":  # by a user, just now
                self.client.restore_run(run_id)
                self._log_some(run_id, entries)
                return
            pieces = _halves(entries)
            if len(pieces) == 1:
                self._refuse({"run": run_id, "entry": repr(dict(entries)), "reason": str(error)})
            else:
                for piece in pieces:
                    self._log_some(run_id, piece)

    def dataset(self) -> None:
        """Record the data set with its digest on the parent run."""
        data, digest = self.search, self.search.dataset_digest
        if digest:
            source = json.dumps({"name": data.dataset, "classes": data.classes})
            entry = Dataset(data.dataset, short(digest, 36), "tkd_search", source)
            self.client.log_inputs(self.run(PARENT), [DatasetInput(entry, [])])

    def text(self, run_id: str, name: str, text: str) -> None:
        """Write a text artifact, replacing an earlier one."""
        if text:
            self.client.log_text(run_id, text, name)

    def files(self, run_id: str, paths: Sequence[Path], folder: str | None = None) -> None:
        """Write files as artifacts, replacing earlier ones."""
        for path in paths:
            self.client.log_artifact(run_id, str(path), folder)

    def reconcile(self) -> None:
        """Delete duplicates, so that the parent and each trial have exactly one run (see the module)."""
        seen: dict[str, int] = {}
        for run in self._search(""):
            trial = run.data.tags.get(TAG_TRIAL, PARENT)
            seen[trial] = seen.get(trial, 0) + 1
        for trial in (trial for trial, count in seen.items() if count > 1):
            self._runs[trial] = self._find(trial)


def _halves(entries: Mapping[str, Sequence[Any]]) -> list[dict[str, Sequence[Any]]]:
    if len(entries) > 1:
        return [{kind: many} for kind, many in entries.items()]
    (kind, many), *_ = entries.items()
    middle = len(many) // 2
    return [{kind: many}] if middle == 0 else [{kind: many[:middle]}, {kind: many[middle:]}]
