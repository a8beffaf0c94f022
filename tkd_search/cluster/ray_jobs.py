"""Runs as Ray jobs: their names, finding one again, following its words."""

import asyncio
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACTIVE = frozenset({"PENDING", "RUNNING"})
_PREFIX = "tkd-"


@dataclass(frozen=True)
class Job:
    """A Ray job of ours: its submission id and status (``PENDING RUNNING STOPPED SUCCEEDED FAILED``)."""

    id: str
    status: str


def jobs_of(name: str, jobs: Iterable[Job]) -> list[tuple[int, Job]]:
    """The jobs that ran a name, each with its number, oldest first."""
    found = []
    for job in jobs:
        stem, _, number = job.id.rpartition("-")
        if stem == f"{_PREFIX}{name}" and number.isdigit():
            found.append((int(number), job))
    return sorted(found, key=lambda pair: pair[0])


def active_job(name: str, jobs: Iterable[Job]) -> Job | None:
    """The job that runs a name now, if any."""
    active = [job for _, job in jobs_of(name, jobs) if job.status in ACTIVE]
    return active[-1] if active else None


def next_job_id(name: str, jobs: Iterable[Job]) -> str:
    """A submission id for one more job of a name; Ray never lets one be used twice."""
    numbers = [number for number, _ in jobs_of(name, jobs)]
    return f"{_PREFIX}{name}-{max(numbers, default=0) + 1}"


def entrypoint(argv: Sequence[str], settings: Mapping[str, str]) -> str:
    """The job's shell command on the head.

    Args:
        argv: arguments of ``python -m tkd_search.run``, taken literally.
        settings: dotted key → value in shell syntax (``$HOME`` is the head's), for keys the user left open.
    """
    words = ["python", "-m", "tkd_search.run", "--address", "auto", *argv]
    quoted = [shlex.quote(word) for word in words]
    quoted += [f'--set "{key}={value}"' for key, value in settings.items()]
    return on_head(" ".join(quoted))


def on_head(command: str) -> str:
    """The shell command that runs another with the head's environment (tracking, storage, passwords)."""
    script = f'. "${{TKD_STATE:-$HOME/.tkd}}/env"; exec {command}'
    return f"bash -c {shlex.quote(script)}"


def list_jobs(client: Any) -> list[Job]:
    """All submitted jobs that the cluster knows."""
    return [Job(j.submission_id, str(j.status)) for j in client.list_jobs() if j.submission_id]


def follow(client: Any, job_id: str, write: Callable[[str], None], skip: int = 0) -> int:
    """Pass on what the job writes until it ends.

    Args:
        client: a ``JobSubmissionClient``.
        job_id: submission id.
        write: receives text as it comes.
        skip: characters that were passed on before a connection broke; the log is sent from its start.

    Returns:
        Characters of the log so far, those skipped among them.

    Raises:
        FollowError: where the connection breaks; its ``seen`` is the ``skip`` of the next call.
    """
    seen = 0

    async def pump() -> None:
        nonlocal seen
        async for chunk in client.tail_job_logs(job_id):
            fresh = chunk[max(0, skip - seen) :]
            seen += len(chunk)
            if fresh:
                write(fresh)

    try:
        asyncio.run(pump())
    except (OSError, RuntimeError) as error:
        raise FollowError(max(seen, skip)) from error
    except Exception as error:
        # aiohttp's errors are not OSErrors, and importing it here would make `run` need it everywhere.
        if type(error).__module__.startswith("aiohttp"):
            raise FollowError(max(seen, skip)) from error
        raise
    return max(seen, skip)


class FollowError(Exception):
    """The connection to a job's log broke; ``seen`` characters had been read."""

    def __init__(self, seen: int) -> None:
        super().__init__(f"connection lost after {seen} characters")
        self.seen = seen
