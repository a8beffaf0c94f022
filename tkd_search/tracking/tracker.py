"""What a search tells about itself, and to whom: the Tracker, and how to open one.

``NullTracker`` forgets everything; ``MlflowTracker`` (in ``mlflow_tracker``) spools it for MLflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkd_search.results.records import BigModelRecord, EpochRecord, SearchRecord, SearchStart, TrialRecord
from tkd_search.tracking.uri import StoreIds


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What a tracking store did not get when its tracker closed: ``events`` still spooled, and why."""

    events: int = 0
    reason: str = ""
    hint: str = ""
    refused: int = 0

    def __str__(self) -> str:
        """One or two sentences for the terminal; empty where nothing is left."""
        left = (
            f"{self.events} tracking events are still spooled ({self.reason}). {self.hint}"
            if self.events
            else ""
        )
        refused = (
            f"The tracking store refused {self.refused} entries; see refused.jsonl." if self.refused else ""
        )
        return " ".join(part for part in (left, refused) if part)


class Tracker:
    """Told of a search as it happens, by one process; no call waits for anything but a local file.

    Every call may be repeated after a crash: an epoch or a trial told twice is recorded once. What a tracker
    does not override it forgets.
    """

    def search_started(self, search: SearchStart) -> None:
        """First of all, also when a search is resumed."""

    def big_model(self, record: BigModelRecord) -> None:
        """F's figures, before the first trial."""

    def trial_started(
        self, trial_id: str, student: str, params: Mapping[str, Any], bytes: int, parameters: int
    ) -> None:
        """A trial begins or goes on; ``params`` flat, dotted key → value."""

    def epoch(self, trial_id: str, record: EpochRecord) -> None:
        """One epoch of a trial is done; the first record of an epoch counts."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, stopped or failed."""

    def progress(self, step: int, figures: Mapping[str, float]) -> None:
        """The search's own figures (hypervolume, front_size, epochs_spent) after trial number ``step``."""

    def search_ended(self, record: SearchRecord, folder: Path) -> None:
        """The search is over or interrupted; ``folder`` holds its summary, pictures and students."""

    def ids(self) -> StoreIds:
        """Where the store keeps the search; empty strings as long as it has not answered."""
        return StoreIds()

    def close(self, timeout: float = 30.0) -> Leftover:
        """Wait up to ``timeout`` seconds until all is stored; never raises for a store that is down."""
        return Leftover()


class NullTracker(Tracker):
    """A tracker that forgets everything."""


def open_tracker(
    uri: str, folder: Path, *, experiment: str | None = None, system_metrics: bool = False
) -> Tracker:
    """The tracker for a tracking URI.

    Args:
        uri: anything MLflow takes (``sqlite:///mlflow.db``, ``http://…``, ``postgresql://…``); '' is
            MLFLOW_TRACKING_URI or else ``sqlite:///mlflow.db`` in the working directory; 'none' tracks
            nothing.
        folder: the run's folder, ``runs/<name>``.
        experiment: name of the MLflow experiment; None is ``tkd_search/<data set>``.
        system_metrics: whether CPU, memory, disk, network and GPU use of this machine are logged as well.
    """
    if uri.lower() in ("none", "off"):
        return NullTracker()
    from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker  # which needs Leftover from here

    return MlflowTracker(uri, folder, experiment=experiment or "", system_metrics=system_metrics)
