"""A worker group of one worker in this process, for tests of jobs."""

from collections.abc import Sequence
from typing import Any

from tkd_search.config.experiment_file import load_config
from tkd_search.config.resolve import resolve
from tkd_search.config.settings_json import to_json
from tkd_search.engine.jobs.job_context import JobContext


class Group:
    """Collects a job's results and heartbeats; supersedes the job after an epoch or a number of batches."""

    def __init__(self, stop_after: int = 1000, stop_at_batch: int = 1 << 30) -> None:
        self.results: list[dict[str, Any]] = []
        self.beats = 0
        self._stop_after, self._batches = stop_after, iter(range(stop_at_batch))

    def epochs(self, kind: str = "epoch") -> list[int]:
        """Return the epochs of the results of a kind."""
        return [result["epoch"] for result in self.results if result["kind"] == kind]

    def context(self) -> JobContext:
        """Return the context of a job on this group."""

        def stopped() -> bool:
            return next(self._batches, None) is None or any(
                result.get("epoch", 0) >= self._stop_after for result in self.results
            )

        return JobContext(
            rank=0, workers=1, device="cpu", push=self.results.append, should_stop=stopped, beat=self._beat
        )

    def _beat(self) -> None:
        self.beats += 1


def settings_of(overrides: Sequence[str]) -> str:
    """Return the settings of the digits experiment as a job carries them."""
    return to_json(resolve(load_config(None, list(overrides))))
