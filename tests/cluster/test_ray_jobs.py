"""Submission ids, entry points and output of Ray jobs."""

import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tkd_search.cluster import ray_jobs
from tkd_search.cluster.ray_jobs import Job

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(name=NAMES, other=NAMES, count=st.integers(0, 4))
def test_job_ids_are_unique_and_belong_to_one_name(name: str, other: str, count: int) -> None:
    known: list[Job] = []
    for _ in range(count):
        known.append(Job(ray_jobs.next_job_id(name, known), "SUCCEEDED"))
    assert len({job.id for job in known}) == count
    assert [number for number, _ in ray_jobs.jobs_of(name, known)] == list(range(1, count + 1))
    if other != name and not any(job.id.startswith(f"tkd-{other}-") for job in known):
        assert ray_jobs.jobs_of(other, known) == []


def test_active_job_finds_the_pending_or_running_job_of_a_name() -> None:
    known = [Job("tkd-a-1", "FAILED"), Job("tkd-a-2", "RUNNING"), Job("tkd-a-b-1", "RUNNING")]
    assert ray_jobs.active_job("a", known) == Job("tkd-a-2", "RUNNING")
    assert ray_jobs.active_job("a-b", known) == Job("tkd-a-b-1", "RUNNING")
    assert ray_jobs.active_job("b", known) is None
    assert ray_jobs.next_job_id("a", known) == "tkd-a-3"


def test_job_numbers_are_compared_as_numbers() -> None:
    known = [Job(f"tkd-a-{n}", "SUCCEEDED") for n in (10, 9)]
    assert ray_jobs.next_job_id("a", known) == "tkd-a-11"


def test_entrypoint_expands_settings_on_the_head(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("export PLACE=/there\n")
    line = ray_jobs.entrypoint("experiment.yaml", {"output": "$PLACE/my runs"})
    # A program named `python` that prints its arguments.
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nfor a in "$@"; do printf "%s\\n" "$a"; done\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TKD_STATE": str(tmp_path), "HOME": "/home/nobody"},
    )  # fmt: skip
    start = ["-m", "tkd_search.run", "--address", "auto", "--config", "experiment.yaml"]
    assert done.stdout.splitlines() == [*start, "--set", "output=/there/my runs"]


class InterruptedLog:
    """Job client whose log connection fails after some chunks."""

    def __init__(self, chunks: list[str], break_after: int) -> None:
        self.chunks, self.break_after = chunks, break_after

    async def tail_job_logs(self, job_id: str):
        for number, chunk in enumerate(self.chunks):
            if number == self.break_after:
                raise ConnectionResetError
            yield chunk


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6), st.integers(0, 6))
def test_follow_after_a_broken_connection_writes_each_character_once(
    chunks: list[str], break_after: int
) -> None:
    written: list[str] = []
    seen = 0
    try:
        seen = ray_jobs.follow(InterruptedLog(chunks, break_after), "j", written.append)
    except ray_jobs.FollowError as error:
        seen = ray_jobs.follow(InterruptedLog(chunks, -1), "j", written.append, error.seen)
    assert "".join(written) == "".join(chunks)
    assert seen == len("".join(chunks))
