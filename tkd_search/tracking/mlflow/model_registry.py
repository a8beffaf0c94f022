"""Registers one model version for every student of a front, and marks those that left the front."""

import contextlib
from typing import Any

import mlflow.exceptions

from tkd_search.results.records import FrontMember
from tkd_search.tracking.mlflow.layout import TAG_PARETO, TAG_SEARCH, TAG_SEARCH_ID, TAG_TRIAL
from tkd_search.tracking.mlflow.store import MlflowStore

OFF_FRONT = "No longer on the front of its search, which has gone on. "


def register(store: MlflowStore, member: FrontMember) -> None:
    """Register the member as ``<search>-<trial>``, with exactly one version from this search."""
    name, text = model_name(store, member.trial_id), version_text(member)
    with contextlib.suppress(mlflow.exceptions.MlflowException):
        # The name exists already, from this search or one of the same name. A store that is down raises
        # below.
        store.client.create_registered_model(name, {TAG_SEARCH: store.search.name})
    versions = _versions(store, name)
    for extra in versions[1:]:
        store.client.delete_model_version(name, extra.version)
    if versions:
        _say(store, versions[0], "true", text)
    else:
        tags = {TAG_SEARCH_ID: store.search_id, TAG_TRIAL: member.trial_id, TAG_PARETO: "true"}
        run_id = store.run(member.trial_id)
        store.client.create_model_version(name, _artifact(store, run_id), run_id, tags, None, text)


def retire(store: MlflowStore, trial_id: str) -> None:
    """Mark the versions of a trial that is not on the front any more.

    They are not deleted: a user may have given them an alias, or load them by number.
    """
    for version in _versions(store, model_name(store, trial_id)):
        _say(store, version, "false", OFF_FRONT + (version.description or "").removeprefix(OFF_FRONT))


def model_name(store: MlflowStore, trial_id: str) -> str:
    """Return the name of a trial's registered model."""
    return f"{store.search.name}-{trial_id}"


def version_text(member: FrontMember) -> str:
    """Return a version's description."""
    return (
        f"{member.student}: {member.bytes:,} bytes ({member.ratio:.1%} of the big model), test accuracy "
        f"{member.test_accuracy:.2%} ({member.retention:.1%} kept)"
    )


def _versions(store: MlflowStore, name: str) -> list[Any]:
    """Return this search's versions of a model, oldest first."""
    found = [
        version
        for version in store.client.search_model_versions(f"name='{name}'")
        if version.tags.get(TAG_SEARCH_ID) == store.search_id
    ]
    return sorted(found, key=lambda version: int(version.version))


def _say(store: MlflowStore, version: Any, pareto: str, text: str) -> None:
    if version.tags.get(TAG_PARETO) != pareto:
        store.client.set_model_version_tag(version.name, version.version, TAG_PARETO, pareto)
    if version.description != text:
        store.client.update_model_version(version.name, version.version, text)


def _artifact(store: MlflowStore, run_id: str) -> str:
    run: Any = store.client.get_run(run_id)
    return f"{run.info.artifact_uri}/model"
