"""A real `ray up clusters/onprem.yaml` on hosts of our own, and what may be seen and done from outside."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_SUBMIT = """
import sys
from pathlib import Path
from tkd_search.cluster import jobs, launch
from tkd_search.cluster.file import read_cluster_file
from tkd_search.cluster.head import find_head
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port
file = read_cluster_file(Path(sys.argv[1])); file.require_filled()
head = find_head(file); launch._use_token(head)
port = free_port(8265)
with Tunnel(head.tunnel_command([Forward(port, 8265)]), [port]):
    client = launch._client(port)
    job = jobs.next_job_id("hello", jobs.list_jobs(client))
    client.submit_job(entrypoint=sys.argv[2], submission_id=job)
    jobs.follow(client, job, sys.stdout.write)
    print("status", client.get_job_info(job).status)
"""

_NODES = """
import ray, socket
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=2)
class Whole:
    def host(self):
        return socket.gethostname()
wholes = [Whole.remote() for _ in range(2)]
print("hosts", sorted(ray.get([whole.host.remote() for whole in wholes])))
"""


def submit(cluster: Cluster, entrypoint: str) -> str:
    return cluster.type(sys.executable, "-c", _SUBMIT, str(cluster.file), entrypoint)


def wait_until(condition, what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(1)


def raylets(cluster: Cluster, number: int) -> list[str]:
    return [p for p in cluster.hosts.processes(number) if "/raylet/raylet" in p]


def test_a_job_runs_on_head_and_worker(cluster: Cluster) -> None:
    wait_until(lambda: raylets(cluster, 1), "the worker's raylet")
    script = cluster.file.parent / "nodes.py"
    script.write_text(_NODES)
    output = submit(cluster, f"python {script}")
    assert "hosts ['node0', 'node1']" in output
    assert "status SUCCEEDED" in output


def test_pages_do_not_listen_outside(cluster: Cluster) -> None:
    for port in (8265, 5000):
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection((cluster.hosts[0].address, port), timeout=3),
        ):
            pass


def test_whoever_lacks_the_token_is_refused(cluster: Cluster) -> None:
    script = f"import ray; ray.init(address='{cluster.hosts[0].address}:6379'); print('in')"
    environment = {**cluster.environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=200,
        check=False,
    )  # fmt: skip
    assert "in" not in done.stdout.split()
    assert done.returncode != 0


def test_mlflow_wants_its_password(cluster: Cluster) -> None:
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1"
    wait_until(lambda: "401" in _output(cluster, ask), "MLflow to answer")
    assert "200" in _output(cluster, f'. ~/.tkd/env; {ask} -u "admin:$MLFLOW_TRACKING_PASSWORD"')
    assert oct((cluster.hosts[0].home / ".tkd" / "mlflow_password").stat().st_mode)[-3:] == "600"


def _output(cluster: Cluster, script: str) -> str:
    try:
        return cluster.hosts.run(0, f"HOME={Path('~root').expanduser()}; {script}")
    except subprocess.CalledProcessError as error:
        return str(error.stdout)


def test_a_host_that_is_switched_on_joins(cluster: Cluster) -> None:
    cluster.hosts.power_on(2)
    wait_until(lambda: raylets(cluster, 2), "the added worker's raylet")
    assert raylets(cluster, 0), "the head was not restarted"


def test_down_leaves_nothing_running(cluster: Cluster) -> None:
    cluster.type("ray", "down", "--yes", str(cluster.file))
    for number in range(3):
        with contextlib.suppress(AssertionError):
            wait_until(lambda n=number: not cluster.hosts.processes(n), f"host {number}", seconds=240)
        assert cluster.hosts.processes(number) == []
