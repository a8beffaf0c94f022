"""Runs as Ray jobs: submission ids, entry points and output."""

import asyncio
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ACTIVE = frozenset({"PENDING", "RUNNING"})
_PREFIX = "tkd-"


@dataclass(frozen=True)
class Job:
    """Submission id and status (``PENDING RUNNING STOPPED SUCCEEDED FAILED``) of a Ray job."""

    id: str
    status: str


def jobs_of(name: str, jobs: Iterable[Job]) -> list[tuple[int, Job]]:
    """Return the jobs of a run's name, each with its number, oldest first."""
    found = []
    for job in jobs:
        stem, _, number = job.id.rpartition("-")
        if stem == f"{_PREFIX}{name}" and number.isdigit():
            found.append((int(number), job))
    return sorted(found, key=lambda pair: pair[0])


def active_job(name: str, jobs: Iterable[Job]) -> Job | None:
    """Return the job of a run's name that is pending or running, or None."""
    active = [job for _, job in jobs_of(name, jobs) if job.status in ACTIVE]
    return active[-1] if active else None


def next_job_id(name: str, jobs: Iterable[Job]) -> str:
    """Return an unused submission id for a run's name; Ray accepts each id once."""
    numbers = [number for number, _ in jobs_of(name, jobs)]
    return f"{_PREFIX}{name}-{max(numbers, default=0) + 1}"


def entrypoint(config: str, settings: Mapping[str, str]) -> str:
    """Return the shell command that runs a search on the head.

    Args:
        config: experiment file in the job's folder.
        settings: dotted key → value in shell syntax, which the head expands (``$HOME``).
    """
    words = ["python", "-m", "tkd_search.run", "--address", "auto", "--config", shlex.quote(config)]
    words += [f'--set "{key}={value}"' for key, value in settings.items()]
    return with_head_environment(" ".join(words))


def with_head_environment(command: str) -> str:
    """Return a shell command that runs another with the head's settings (tracking, storage, passwords)."""
    script = f'. "${{TKD_STATE:-$HOME/.tkd}}/env"; exec {command}'
    return f"bash -c {shlex.quote(script)}"


def list_jobs(client: Any) -> list[Job]:
    """Return all jobs that were submitted to the cluster."""
    return [Job(j.submission_id, str(j.status)) for j in client.list_jobs() if j.submission_id]


def follow(client: Any, job_id: str, write: Callable[[str], None], skip: int = 0) -> int:
    """Pass a job's output to ``write`` until the job ends.

    Args:
        client: a ``JobSubmissionClient``.
        job_id: submission id.
        write: receives each piece of text.
        skip: characters that earlier calls have passed on; Ray sends the log from its start each time.

    Returns:
        Characters of the log so far, including those skipped.

    Raises:
        FollowError: the connection failed; its ``seen`` is the ``skip`` of the next call.
    """
    seen = 0

    async def read_log() -> None:
        nonlocal seen
        async for chunk in client.tail_job_logs(job_id):
            new = chunk[max(0, skip - seen) :]
            seen += len(chunk)
            if new:
                write(new)

    try:
        asyncio.run(read_log())
    except (OSError, RuntimeError) as error:
        raise FollowError(max(seen, skip)) from error
    except Exception as error:
        # aiohttp's errors are not OSErrors; it is imported only where the extra `cluster` is installed.
        if type(error).__module__.startswith("aiohttp"):
            raise FollowError(max(seen, skip)) from error
        raise
    return max(seen, skip)


class FollowError(Exception):
    """The connection to a job's log failed after ``seen`` characters."""

    def __init__(self, seen: int) -> None:
        super().__init__(f"connection lost after {seen} characters")
        self.seen = seen
