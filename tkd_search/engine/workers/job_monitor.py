"""Monitor of a running job: sends its heartbeats and notices when it is superseded."""

import threading
from typing import Any

from ray.exceptions import RayError

from tkd_search.engine.workers.queue_clients import GroupClient

_RETRY_SECONDS = 1.0


class JobMonitor:
    """Context manager around one job on rank 0; a thread exchanges messages with the queue's actor.

    Args:
        client: the group's.
        job_id: number of the job.

    Attributes:
        superseded: set once the job must stop.
    """

    def __init__(self, client: GroupClient, job_id: int) -> None:
        self._client, self._job_id = client, job_id
        self.superseded = threading.Event()
        self._progressed, self._finished = threading.Event(), threading.Event()

    def __enter__(self) -> "JobMonitor":
        threading.Thread(target=self._run, daemon=True, name=f"monitor-{self._job_id}").start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._finished.set()

    def beat(self) -> None:
        """Note that the job has made progress; cheap enough for every step."""
        self._progressed.set()

    def push(self, result: dict[str, Any]) -> None:
        """Push a result, waiting while the holder has unread ones."""
        self.beat()
        if not self._client.push(self._job_id, result):
            self.superseded.set()

    def _run(self) -> None:
        while not self._finished.is_set():
            progressed = self._progressed.is_set()
            self._progressed.clear()
            try:
                if self._client.wait_superseded(self._job_id, progressed):
                    self.superseded.set()
                    return
            except RayError:  # the queue's actor may be restarting
                self._finished.wait(_RETRY_SECONDS)
