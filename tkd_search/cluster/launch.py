"""``run --cluster FILE``: runs a search as a Ray job on a running cluster.

Finds the head, opens the tunnels, submits the job with code and token, and prints the job's output. Ctrl-C
detaches and leaves the search running; the same command attaches again.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tkd_search.cluster import ray_jobs
from tkd_search.cluster.cluster_file import ClusterFile, read_cluster_file
from tkd_search.cluster.head import KubernetesHead, SshHead, find_head
from tkd_search.cluster.job_package import EXPERIMENT_FILE, copy_code, copy_experiment
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port
from tkd_search.cluster.upload import local_data, send_data
from tkd_search.config.experiment_file import Config
from tkd_search.config.tree import flatten
from tkd_search.errors import UserError
from tkd_search.masking import masked_values
from tkd_search.tracking.uri import sqlite_file

DASHBOARD_PORT, MLFLOW_PORT = 8265, 5000
_DEFAULT_RUNS_FOLDER = "${TKD_STATE:-$HOME/.tkd}/runs"
_MAX_RECONNECTS = 20
DETACHED_EXIT_CODE = 130


def run_on_cluster(cluster_file: Path, config: Config, command: str) -> int:
    """Run a search on a cluster and print its output until it ends.

    Args:
        cluster_file: the file that was given to ``ray up`` or ``kubectl apply``.
        config: the experiment; if a job of its name runs, the command attaches to it. Its ``output`` is the
            folder on this machine that results are copied to.
        command: what the user types to attach again.

    Returns:
        The exit code of the search; 130 after Ctrl-C.

    Raises:
        UserError: the cluster cannot be reached, or a setting is wrong.
    """
    folder = config.folder
    if (folder / "study.journal").exists():
        raise UserError(
            "--name", f"{config.name}, a search that ran on this machine in {folder}", "an unused name",
            "the cluster's results would overwrite it: choose another --name or another --output",
        )  # fmt: skip
    file = read_cluster_file(cluster_file)
    file.require_filled()
    refuse_secrets(config)
    head = find_head(file)
    use_token(head)
    forwards = (
        Forward(free_port(DASHBOARD_PORT), DASHBOARD_PORT),
        Forward(free_port(MLFLOW_PORT), MLFLOW_PORT),
    )
    with Tunnel(head.tunnel_command(forwards), [forwards[0].local]) as tunnel:
        client = open_client(forwards[0].local)
        job_id = _attach_or_submit(client, head, file, config)
        _print_line(f"dashboard  http://127.0.0.1:{forwards[0].local}   (open while this command runs)")
        _print_line(f"MLflow     http://127.0.0.1:{forwards[1].local}   {_mlflow_login(head)}")
        try:
            _follow(client, tunnel, job_id)
        except KeyboardInterrupt:
            _print_detached(file, head, config, command, job_id, forwards)
            return DETACHED_EXIT_CODE
        return _finish(client, head, job_id, runs_folder(file), folder)


def runs_folder(file: ClusterFile) -> str:
    """Return the head's folder of runs, in shell syntax; below the storage if that is a shared folder."""
    return f"{file.storage}/runs" if file.storage and "://" not in file.storage else _DEFAULT_RUNS_FOLDER


def use_token(head: SshHead | KubernetesHead) -> None:
    """Make Ray's client in this process use the cluster's token.

    Raises:
        UserError: this machine has no token.
    """
    token = head.token()
    if not token:
        raise UserError(
            "--cluster", "no Ray token on this machine", "the token that the cluster was started with",
            "run `ray get-auth-token --generate`, then `ray up` again, which copies it to the cluster",
        )  # fmt: skip
    # Without this mode, Ray's client does not read the token file.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token


def open_client(port: int) -> Any:
    """Return a ``JobSubmissionClient`` for a dashboard that is tunnelled to a local port.

    Raises:
        UserError: a package is missing, or the dashboard is unreachable or refuses the token.
    """
    try:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        return JobSubmissionClient(f"http://127.0.0.1:{port}")
    except ImportError as error:
        raise UserError(
            "--cluster", f"a missing package: {error}", "the extra `cluster`", "./setup.sh --cluster"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            "--cluster", f"no answer or a refusal: {lines[0] if lines else error}", "the cluster's own token",
            "~/.ray/auth_token must be the token that the cluster was started with (`ray up` copies it)",
        ) from error  # fmt: skip


def _attach_or_submit(client: Any, head: SshHead | KubernetesHead, file: ClusterFile, config: Config) -> str:
    known = ray_jobs.list_jobs(client)
    running = ray_jobs.active_job(config.name, known)
    if running is not None:
        _print_line(f"attached to job {running.id}, which runs {config.name}")
        return running.id
    expanded = {"output": runs_folder(file)}
    for key in ("data.path", "data.unlabelled"):
        if isinstance(head, SshHead) and (data := local_data(config, key)):
            expanded[key] = send_data(head, data, _print_line)
    job_id = ray_jobs.next_job_id(config.name, known)
    with tempfile.TemporaryDirectory(prefix="tkd-job-") as folder:
        copy_code(Path(folder))
        copy_experiment(Path(folder), config, cluster_stores(config, file))
        client.submit_job(
            entrypoint=ray_jobs.entrypoint(EXPERIMENT_FILE, expanded),
            submission_id=job_id,
            runtime_env={"working_dir": folder},
            metadata={"tkd_search": config.name},
        )
    _print_line(f"{config.name} submitted as job {job_id}")
    return job_id


def cluster_stores(config: Config, file: ClusterFile) -> Mapping[str, str]:
    """Return the cluster's storage and tracking store, where the experiment names none that serves there."""
    found = {}
    if file.storage and config.tree["storage"] is None:
        found["storage"] = file.storage
    uri = config.settings().tracking.uri or ""
    if not uri or sqlite_file(uri):
        found["tracking.uri"] = f"http://127.0.0.1:{MLFLOW_PORT}"
    if sqlite_file(uri):
        _print_line(f"tracking   the cluster's MLflow, in place of {uri} on this machine")
    return found


def refuse_secrets(config: Config) -> None:
    """Refuse settings with a login: everyone with the cluster's token can read a job's files.

    Raises:
        UserError: a value has a login; names its key.
    """
    leaves = flatten(config.tree)
    for key, shown in masked_values(leaves).items():
        if json.dumps(shown, default=str) != json.dumps(leaves[key], default=str):
            raise UserError(
                key,
                f"a login in a setting of a cluster's job ({shown})",
                "a value without login",
                "set the login in the environment of the cluster's nodes; MLflow's is "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )


def _follow(client: Any, tunnel: Tunnel, job_id: str) -> None:
    """Print the job's output until the job ends; reopen the tunnel after a failure."""
    seen, failures = 0, 0
    while True:
        try:
            seen = ray_jobs.follow(client, job_id, _write, seen)
            if str(client.get_job_status(job_id)) not in ray_jobs.ACTIVE:
                return
            time.sleep(1)
        except (ray_jobs.FollowError, OSError, RuntimeError) as error:
            progressed = isinstance(error, ray_jobs.FollowError) and error.seen > seen
            seen = error.seen if isinstance(error, ray_jobs.FollowError) else seen
            failures = 1 if progressed else failures + 1
            if failures > _MAX_RECONNECTS:
                raise UserError(
                    "--cluster", f"{failures} failed connections to the head in a row", "a reachable head",
                    "the search continues there; the same command attaches again",
                ) from error  # fmt: skip
            time.sleep(min(30, failures))
            if not tunnel.alive:
                with suppress(UserError):
                    tunnel.open()


def _finish(client: Any, head: SshHead | KubernetesHead, job_id: str, runs: str, folder: Path) -> int:
    info = client.get_job_info(job_id)
    status = str(info.status)
    if copied := head.fetch(f"{runs}/{folder.name}", folder):
        _print_line(f"results copied to {folder}/")
    else:
        _print_line(f"warning: {runs}/{folder.name} was not copied from the head")
        _print_line("give the same command again before `ray down`")
    if status == "SUCCEEDED":
        return 0 if copied else 2
    _print_line(f"job {job_id}: {status.lower()}. {info.message or ''}".strip())
    return int(info.driver_exit_code or 1)


def _mlflow_login(head: SshHead | KubernetesHead) -> str:
    script = 'cat "${TKD_STATE:-$HOME/.tkd}/mlflow_password"'
    return f"user admin, password: {' '.join(head.shell_command(script))}"


def _print_detached(
    file: ClusterFile,
    head: SshHead | KubernetesHead,
    config: Config,
    command: str,
    job_id: str,
    forwards: Sequence[Forward],
) -> None:
    _print_line(f"\ndetached: {config.name} continues on the cluster.")
    _print_line(f"  attach again:  {command}")
    if file.provider == "kuberay":
        _print_line(f"  stop it:       kubectl exec {getattr(head, 'pod', '')} -- ray job stop {job_id}")
    else:
        _print_line(f"  stop it:       ray exec {file.path} 'RAY_AUTH_MODE=token ray job stop {job_id}'")
    _print_line(f"  open its pages: {' '.join(head.tunnel_command(forwards))}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
