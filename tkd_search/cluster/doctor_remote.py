"""``doctor --cluster FILE``: the way in, seen from here, then the doctor on the head about every node."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tkd_search.cluster import ray_jobs
from tkd_search.cluster.cluster_file import read_cluster_file
from tkd_search.cluster.head import find_head
from tkd_search.cluster.job_package import stage
from tkd_search.cluster.launch import DASHBOARD_PORT, open_client, runs_folder, use_token
from tkd_search.cluster.node_checks import Check
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port
from tkd_search.errors import UserError


def examine_cluster(cluster_file: Path, say: Callable[[str], None]) -> int:
    """Examine a cluster that is up.

    Args:
        cluster_file: what ``ray up`` or ``kubectl apply`` was given.
        say: receives the answers, line by line.

    Returns:
        0 where all is well, 1 where something is wrong.

    Raises:
        UserError: where the file cannot be read.
    """
    file = read_cluster_file(cluster_file)
    try:
        file.require_filled()
        say(Check("file", "ok", f"{cluster_file}: {file.name}, provider {file.provider}").line())
        head = find_head(file)
        say(Check("head", "ok", getattr(head, "host", "") or getattr(head, "pod", "")).line())
        use_token(head)
        forward = Forward(free_port(DASHBOARD_PORT), DASHBOARD_PORT)
        with Tunnel(head.tunnel_command([forward]), [forward.local]):
            client = open_client(forward.local)
            say(Check("way in", "ok", "tunnel, token and dashboard").line())
            command = f'doctor --address auto --output "{runs_folder(file)}"'
            if file.storage:
                command += f' --storage "{file.storage}"'
            return _run_there(client, command, say)
    except UserError as error:
        say(Check("way in", "wrong", f"{error.where}: {error.found}", error.hint or error.allowed).line())
        return 1


def _run_there(client: Any, command: str, say: Callable[[str], None]) -> int:
    job_id = ray_jobs.next_job_id("doctor", ray_jobs.list_jobs(client))
    with tempfile.TemporaryDirectory(prefix="tkd-job-") as folder:
        stage(Path(folder), [])
        client.submit_job(
            entrypoint=ray_jobs.on_head(f"python -m tkd_search {command}"),
            submission_id=job_id,
            runtime_env={"working_dir": folder},
        )
    printed: list[str] = []
    ray_jobs.follow(client, job_id, printed.append)
    # Ray's own lines about the job are not the doctor's.
    for line in "".join(printed).splitlines():
        if line.startswith(("ok ", "mind ", "WRONG")):
            say(line)
    status = str(client.get_job_status(job_id))
    if status != "SUCCEEDED" and not any(line.startswith("WRONG") for line in "".join(printed).splitlines()):
        say(
            Check(
                "doctor", "wrong", "".join(printed).strip()[-500:] or status, "look at the job's log"
            ).line()
        )
    return 0 if status == "SUCCEEDED" else 1
