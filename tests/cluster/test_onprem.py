"""`ray up clusters/onprem.yaml` on simulated hosts: a search, access without the token, `ray down`."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.cluster.conftest import TOP, Cluster, tail

pytestmark = [pytest.mark.cluster, pytest.mark.exhaustive, pytest.mark.timeout(1500)]

_SUBMIT = """
import sys
from pathlib import Path
from tkd_search.cluster import launch, ray_jobs
from tkd_search.cluster.cluster_file import read_cluster_file
from tkd_search.cluster.head import find_head
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port
file = read_cluster_file(Path(sys.argv[1])); file.require_filled()
head = find_head(file); launch.use_token(head)
port = free_port(8265)
with Tunnel(head.tunnel_command([Forward(port, 8265)]), [port]):
    client = launch.open_client(port)
    job = ray_jobs.next_job_id("hello", ray_jobs.list_jobs(client))
    client.submit_job(entrypoint=sys.argv[2], submission_id=job)
    ray_jobs.follow(client, job, sys.stdout.write)
    print("status", client.get_job_info(job).status)
"""

_NODES = """
import ray, socket
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=2)
class WholeNode:
    def host(self):
        return socket.gethostname()
actors = [WholeNode.remote() for _ in range(2)]
print("hosts", sorted(ray.get([actor.host.remote() for actor in actors])))
"""


def submit(cluster: Cluster, entrypoint: str) -> str:
    return cluster.run_on_laptop(sys.executable, "-c", _SUBMIT, str(cluster.file), entrypoint)


def wait_until(condition, what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(1)


def raylets(cluster: Cluster, number: int) -> list[str]:
    return [p for p in cluster.hosts.processes(number) if "/raylet/raylet" in p]


def test_job_runs_on_head_and_worker(cluster: Cluster) -> None:
    wait_until(lambda: raylets(cluster, 1), "the worker's raylet")
    script = cluster.file.parent / "nodes.py"
    script.write_text(_NODES)
    output = submit(cluster, f"python {script}")
    assert "hosts ['node0', 'node1']" in output
    assert "status SUCCEEDED" in output


def test_pages_listen_on_loopback_only(cluster: Cluster) -> None:
    for port in (8265, 5000):
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection((cluster.hosts[0].address, port), timeout=3),
        ):
            pass


def test_driver_without_the_token_is_refused(cluster: Cluster) -> None:
    script = f"import ray; ray.init(address='{cluster.hosts[0].address}:6379'); print('connected')"
    environment = {**cluster.environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=200,
        check=False,
    )  # fmt: skip
    assert "connected" not in done.stdout.split()
    assert done.returncode != 0


# Processes with ports that answer without the token; SECURITY.md lists them.
LISTED = {"sshd"}
# Ray's monitor and dashboard have the interpreter's name: python, python3 or python3.11, by environment.
METRICS = ("python", "ray::DashboardA")
RENDEZVOUS = {"ray::RayTrainWo"}


def unprotected(cluster: Cluster, number: int, listed: set[str]) -> list[object]:
    """Return the ports of a host that answer without the token and are neither listed nor metrics."""
    from tests.cluster.ports import open_ports, probe_port

    listening = open_ports(cluster.hosts.run(number, "ss -Hltnp"))
    probes = [probe_port(cluster.hosts[number].address, *entry) for entry in listening]
    print(*probes, sep="\n")
    return [
        probe
        for probe in probes
        if not probe.requires_token
        and probe.process not in listed
        and not (probe.serves_metrics_only and probe.process.startswith(METRICS))
    ]


def test_every_other_port_requires_the_token(cluster: Cluster) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install grpcio")
    for number in (0, 1):
        assert not unprotected(cluster, number, LISTED), f"host {number}"


def test_mlflow_requires_its_password(cluster: Cluster) -> None:
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1"
    wait_until(lambda: "401" in _output(cluster, ask), "MLflow to answer")
    assert "200" in _output(cluster, f'. ~/.tkd/env; {ask} -u "admin:$MLFLOW_TRACKING_PASSWORD"')
    assert oct((cluster.hosts[0].home / ".tkd" / "mlflow_password").stat().st_mode)[-3:] == "600"


def test_killed_mlflow_server_is_restarted(cluster: Cluster) -> None:
    find = "pgrep -o -f 'mlflow server'"
    before = cluster.hosts.run(0, find).strip()
    cluster.hosts.run(0, f"kill -9 {before}")
    wait_until(lambda: _output(cluster, find).strip() not in ("", before), "another MLflow server")
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5000/"
    wait_until(lambda: "401" in _output(cluster, ask), "MLflow to answer again")


def _output(cluster: Cluster, script: str) -> str:
    try:
        return cluster.hosts.run(0, f"HOME={Path('~root').expanduser()}; {script}")
    except subprocess.CalledProcessError as error:
        return str(error.stdout)


def test_doctor_checks_every_node(cluster: Cluster) -> None:
    doctor = [sys.executable, "-m", "tkd_search", "doctor", "--cluster", str(cluster.file)]
    output = cluster.run_on_laptop(*doctor)
    assert "WRONG" not in output
    for host in ("node0", "node1"):
        assert any(host in line and "writes" in line for line in output.splitlines()), output
    assert "http://127.0.0.1:5000 answers" in output


SMALL = {
    "search.trials": 8, "search.startup_trials": 4, "training.epochs": 9, "big_model.epochs": 4,
    "student.width": 0.25, "resources.max_concurrent": 2, "data.name": "table",
}  # fmt: skip
NAME = "on-hosts"


def table_of_digits(folder: Path) -> Path:
    """Write the digits as pictures and a table of them; return the table."""
    table = folder / "my photos.csv"
    if not table.exists():
        digits = load_digits()
        (folder / "digits").mkdir()
        rows = []
        for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            rows.append(f"digits/{number}.png,{label}")
            Image.fromarray((image * 15).astype("uint8")).save(folder / f"digits/{number}.png")
        table.write_text("\n".join(["image,label", *rows]))
    return table


def command(cluster: Cluster) -> list[str]:
    changes = {**SMALL, "data.path": table_of_digits(cluster.laptop)}
    settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    config = ["--config", "digits", "--name", NAME]
    output = ["--output", str(cluster.file.parent / "fetched")]
    return [
        sys.executable, "-m", "tkd_search.run", "--cluster", str(cluster.file), *config, *settings, *output
    ]  # fmt: skip


def ended_trials(cluster: Cluster) -> int:
    """Return the number of ended trials, from the study's journal in the shared folder."""
    text = "".join(
        path.read_text(errors="replace")
        for path in (cluster.file.parent / "nfs").rglob("*study*")
        if path.is_file()
    )
    return text.count('"op_code": 6') or text.count('"op_code":6')


def test_search_survives_a_lost_host_and_uses_an_added_one(cluster: Cluster) -> None:
    log = cluster.file.parent / "search.log"
    with log.open("w") as out:
        run = subprocess.Popen(
            command(cluster), cwd=TOP, env=cluster.environment(), stdout=out, stderr=out,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: run.poll() is not None or ended_trials(cluster) >= 1, "a first trial", 500)
        assert run.poll() is None, tail(log)
        assert not unprotected(cluster, 0, LISTED | RENDEZVOUS)
        cluster.hosts.power_on(2)
        cluster.hosts.power_off(1)
        wait_until(lambda: raylets(cluster, 2), "the added worker's raylet")
        assert run.wait(timeout=900) == 0, tail(log)
    finally:
        if run.poll() is None:
            run.kill()
    summary = json.loads((cluster.file.parent / "fetched" / NAME / "summary.json").read_text())
    assert summary["status"] == "complete"
    trials = summary["trials"]
    assert trials["total"] == SMALL["search.trials"]
    assert trials["completed"] + trials["stopped_early"] == trials["total"], trials
    assert summary["front"]
    assert raylets(cluster, 0), "the head was not restarted"


_RUNS_IN_MLFLOW = """
import mlflow, collections
client = mlflow.MlflowClient()
experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
runs = client.search_runs(experiments, max_results=1000)
names = [run.info.run_name for run in runs]
print("runs", len(names), "distinct", len(set(names)))
"""


def test_mlflow_has_every_trial_once(cluster: Cluster) -> None:
    script = cluster.file.parent / "runs.py"
    script.write_text(_RUNS_IN_MLFLOW)
    count = 1 + SMALL["search.trials"]
    assert f"runs {count} distinct {count}" in _output(cluster, f". ~/.tkd/env; python {script}")


def test_same_command_shows_the_finished_front(cluster: Cluster) -> None:
    assert "tkd-on-hosts-2" in cluster.run_on_laptop(*command(cluster))


def test_ray_down_ends_every_process(cluster: Cluster) -> None:
    cluster.run_on_laptop("ray", "down", "--yes", str(cluster.file))
    for number in range(3):
        with contextlib.suppress(AssertionError):
            wait_until(lambda n=number: not cluster.hosts.processes(n), f"host {number}", seconds=240)
        assert cluster.hosts.processes(number) == []
