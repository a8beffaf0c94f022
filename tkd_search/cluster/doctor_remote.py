"""``doctor --cluster FILE``: checks the connection to the head, then runs ``doctor`` there for every node."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tkd_search.cluster import ray_jobs
from tkd_search.cluster.cluster_file import read_cluster_file
from tkd_search.cluster.head import find_head
from tkd_search.cluster.job_package import copy_code
from tkd_search.cluster.launch import DASHBOARD_PORT, open_client, runs_folder, use_token
from tkd_search.cluster.node_checks import LINE_STARTS, Check
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port
from tkd_search.errors import UserError


def examine_cluster(cluster_file: Path, print_line: Callable[[str], None]) -> int:
    """Check a running cluster.

    Args:
        cluster_file: the file that was given to ``ray up`` or ``kubectl apply``.
        print_line: receives one line for each check.

    Returns:
        0 if every check passes, otherwise 1.

    Raises:
        UserError: the file cannot be read.
    """
    file = read_cluster_file(cluster_file)
    try:
        file.require_filled()
        print_line(Check("file", "ok", f"{cluster_file}: {file.name}, provider {file.provider}").line())
        head = find_head(file)
        print_line(Check("head", "ok", getattr(head, "host", "") or getattr(head, "pod", "")).line())
        use_token(head)
        forward = Forward(free_port(DASHBOARD_PORT), DASHBOARD_PORT)
        with Tunnel(head.tunnel_command([forward]), [forward.local]):
            client = open_client(forward.local)
            print_line(Check("connection", "ok", "tunnel, token and dashboard").line())
            command = f'doctor --address auto --output "{runs_folder(file)}"'
            if file.storage:
                command += f' --storage "{file.storage}"'
            return _run_on_head(client, command, print_line)
    except UserError as error:
        check = Check("connection", "wrong", f"{error.where}: {error.found}", error.hint or error.allowed)
        print_line(check.line())
        return 1


def _run_on_head(client: Any, command: str, print_line: Callable[[str], None]) -> int:
    job_id = ray_jobs.next_job_id("doctor", ray_jobs.list_jobs(client))
    with tempfile.TemporaryDirectory(prefix="tkd-job-") as folder:
        copy_code(Path(folder))
        client.submit_job(
            entrypoint=ray_jobs.with_head_environment(f"python -m tkd_search {command}"),
            submission_id=job_id,
            runtime_env={"working_dir": folder},
        )
    pieces: list[str] = []
    ray_jobs.follow(client, job_id, pieces.append)
    output = "".join(pieces)
    # The output also has Ray's own lines about the job.
    lines = [line for line in output.splitlines() if line.startswith(LINE_STARTS)]
    for line in lines:
        print_line(line)
    status = str(client.get_job_status(job_id))
    if status != "SUCCEEDED" and not any(line.startswith("WRONG") for line in lines):
        check = Check("doctor", "wrong", output.strip()[-500:] or status, f"read the log of the job {job_id}")
        print_line(check.line())
    return 0 if status == "SUCCEEDED" else 1
