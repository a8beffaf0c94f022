"""Uploads files that a command wrote again to the search's runs in MLflow; a failure is only reported."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tkd_search.errors import UserError
from tkd_search.results.records import FrontMember
from tkd_search.results.summary import read_summary
from tkd_search.tracking.uri import known_uri


def publish_member(folder: Path, member: FrontMember, files: Sequence[Path]) -> str:
    """Add files to a front member's ``model`` folder in MLflow, where its registered version points.

    Returns:
        '' on success or where the search is not tracked, else the problem.
    """

    def publish(uri: str, parent: str) -> None:
        from tkd_search.tracking.mlflow.reader import log_files, trial_run

        log_files(uri, trial_run(uri, parent, member.trial_id), files, "model")

    return _published(folder, publish)


def publish_report(folder: Path, files: Sequence[Path]) -> str:
    """Replace the report's files on the search's run in MLflow; the result is as above."""

    def publish(uri: str, parent: str) -> None:
        from tkd_search.tracking.mlflow.reader import log_files

        log_files(uri, parent, files)

    return _published(folder, publish)


def _published(folder: Path, publish: Callable[[str, str], None]) -> str:
    try:
        there = read_summary(folder)["mlflow"]
        if there["parent_run_id"]:
            publish(known_uri(there["tracking_uri"]), there["parent_run_id"])
    except UserError as error:
        return f"{error.where}: {error.found}; {error.hint or error.allowed}"
    return ""
