"""Fixtures: hosts in network namespaces, a cluster that ``ray up`` starts on them, and a moto server."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, reason_for_skipping
from tkd_search.cluster.cluster_file import ClusterFile, NodeType
from tkd_search.cluster.tunnels import free_port

TOP = Path(__file__).parents[2]
REGION = "us-east-1"


@dataclass
class Cluster:
    """Cluster and the user's machine.

    Attributes:
        hosts: the cluster's machines.
        file: copy of clusters/onprem.yaml with its five lines changed.
        laptop: home folder of the user.
    """

    hosts: Hosts
    file: Path
    laptop: Path

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the user's shell."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "TKD_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        temp = self.laptop / "tmp"
        temp.mkdir(exist_ok=True)
        return {
            **kept,
            "HOME": str(self.laptop),
            "PATH": path,
            "RAY_TMPDIR": str(temp),
            "OMP_NUM_THREADS": "1",
        }

    def run_on_laptop(self, *command: str, seconds: float = 400) -> str:
        """Run a command as the user, in the top folder; assert success and return its output."""
        done = subprocess.run(
            command, cwd=TOP, env=self.environment(), capture_output=True, text=True,
            timeout=seconds, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr


def cluster_file(**changes: object) -> ClusterFile:
    """Return a minimal cluster file with some fields changed."""
    head = NodeType(name="head", instance="", resources={}, max_count=1, spot=False)
    fields = {"path": Path("c.yaml"), "name": "c", "provider": "local", "head": head, **changes}
    return ClusterFile(**fields)


def change_five_lines(text: str, storage: Path, head: str, workers: list[str], key: Path) -> str:
    """Return the text of clusters/onprem.yaml with a user's values."""
    changes = {
        "/nfs/CHANGE-ME/tkd": str(storage), "CHANGE-ME-head": head, "CHANGE-ME-worker": ", ".join(workers),
        "CHANGE-ME-user": "root", "~/.ssh/CHANGE-ME": str(key),
    }  # fmt: skip
    for placeholder, value in changes.items():
        assert text.count(placeholder) == 1, placeholder
        text = text.replace(placeholder, value)
    return text


@pytest.fixture(scope="module")
def started_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three running hosts."""
    reason = reason_for_skipping()
    if reason:
        pytest.skip(reason)
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def cluster(started_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Head and one worker, started by `ray up`; the third host is listed, but off."""
    pytest.importorskip("aiohttp_cors", reason="the extra `cluster` is not installed")
    for host in started_hosts.hosts:
        settings = f"TKD_VENV={sys.prefix}\nTKD_DATABASE=sqlite:///$HOME/.tkd/mlflow.db\n"
        (host.home / ".tkd" / "settings").write_text(settings)
    folder = tmp_path_factory.mktemp("user")
    laptop = folder / "home"
    (laptop / ".ssh").mkdir(parents=True)
    storage = folder / "nfs"
    storage.mkdir()
    file = folder / "onprem.yaml"
    text = (TOP / "clusters" / "onprem.yaml").read_text()
    head, *workers = [host.address for host in started_hosts.hosts]
    file.write_text(change_five_lines(text, storage, head, workers, started_hosts.key))
    started = Cluster(started_hosts, file, laptop)
    started_hosts.power_off(2)
    started.run_on_laptop("ray", "get-auth-token", "--generate")
    started.run_on_laptop("ray", "up", "--yes", str(file))
    return started


def tail(path: Path, characters: int = 6000) -> str:
    """Return the end of a text file for assertion messages; '' if it is missing."""
    return path.read_text(errors="replace")[-characters:] if path.exists() else ""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a moto server, with test credentials in the environment."""
    pytest.importorskip("boto3")
    pytest.importorskip("flask", reason="moto[server] is not installed")
    server = shutil.which("moto_server", path=str(Path(sys.executable).parent)) or shutil.which("moto_server")
    if server is None:
        pytest.skip("moto_server is not installed: pip install 'moto[server]'")
    port, folder = free_port(5055), tmp_path_factory.mktemp("moto")
    log = (folder / "moto.log").open("w")
    process = subprocess.Popen(
        [server, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log,
        env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    patch = pytest.MonkeyPatch()
    for key, value in {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        patch.setenv(key, value)
    patch.delenv("AWS_PROFILE", raising=False)
    try:
        _wait_for(url, process)
        yield url
    finally:
        patch.undo()
        process.terminate()
        process.wait(timeout=20)
        log.close()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        assert process.poll() is None, "the moto server ended"
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the moto server did not answer")
