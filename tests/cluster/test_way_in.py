"""The way in: names of jobs, command lines of ssh and kubectl, what a job takes along, broken lines."""

import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.cluster import ray_jobs
from tkd_search.cluster.cluster_file import ClusterFile, NodeType, read_cluster_file
from tkd_search.cluster.job_package import fill_job_folder, option, overrides, without_option
from tkd_search.cluster.launch import run_on_cluster, runs_folder
from tkd_search.cluster.ray_jobs import Job
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port, kubectl_tunnel_command, ssh_tunnel_command
from tkd_search.cluster.upload import MAX_UPLOAD_BYTES, local_data, remote_folder, send_data
from tkd_search.errors import UserError

CLUSTERS = Path(__file__).parents[2] / "clusters"
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


def cluster_file(**changes: object) -> ClusterFile:
    head = NodeType(name="head", instance="", resources={}, max_count=1, spot=False)
    given_fields = {"path": Path("c.yaml"), "name": "c", "provider": "local", "head": head, **changes}
    return ClusterFile(**given_fields)  # type: ignore[arg-type]


@given(name=NAMES, other=NAMES, count=st.integers(0, 4))
def test_job_ids_are_new_and_belong_to_one_name(name: str, other: str, count: int) -> None:
    known: list[Job] = []
    for _ in range(count):
        known.append(Job(ray_jobs.next_job_id(name, known), "SUCCEEDED"))
    assert len({job.id for job in known}) == count
    assert [number for number, _ in ray_jobs.jobs_of(name, known)] == list(range(1, count + 1))
    if other != name and not any(job.id.startswith(f"tkd-{other}-") for job in known):
        assert ray_jobs.jobs_of(other, known) == []


def test_a_run_that_is_active_is_found_and_others_are_not() -> None:
    known = [Job("tkd-a-1", "FAILED"), Job("tkd-a-2", "RUNNING"), Job("tkd-a-b-1", "RUNNING")]
    assert ray_jobs.active_job("a", known) == Job("tkd-a-2", "RUNNING")
    assert ray_jobs.active_job("a-b", known) == Job("tkd-a-b-1", "RUNNING")
    assert ray_jobs.active_job("b", known) is None
    assert ray_jobs.next_job_id("a", known) == "tkd-a-3"


def test_ten_jobs_are_counted_as_numbers() -> None:
    known = [Job(f"tkd-a-{n}", "SUCCEEDED") for n in (10, 9)]
    assert ray_jobs.next_job_id("a", known) == "tkd-a-11"


AWKWARD = ["--set", "a='x y'; rm -rf $HOME", '"', "$(id)"]


def test_arguments_reach_the_head_as_typed_and_settings_are_expanded_there(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("export PLACE=/there\n")
    line = ray_jobs.entrypoint(AWKWARD, {"output": "$PLACE/runs"})
    # In place of Python, a program that prints its arguments.
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nfor a in "$@"; do printf "%s\\n" "$a"; done\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TKD_STATE": str(tmp_path), "HOME": "/home/nobody"},
    )  # fmt: skip
    printed = done.stdout.splitlines()
    assert printed == ["-m", "tkd_search.run", "--address", "auto", *AWKWARD, "--set", "output=/there/runs"]


class FakeLog:
    """A job's log over a connection that breaks: a real asynchronous iterator, no server."""

    def __init__(self, chunks: list[str], break_after: int) -> None:
        self.chunks, self.break_after = chunks, break_after

    async def tail_job_logs(self, job_id: str):
        for number, chunk in enumerate(self.chunks):
            if number == self.break_after:
                raise ConnectionResetError
            yield chunk


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6), st.integers(0, 6))
def test_a_broken_connection_repeats_and_loses_nothing(chunks: list[str], broken: int) -> None:
    heard: list[str] = []
    seen = 0
    try:
        seen = ray_jobs.follow(FakeLog(chunks, broken), "j", heard.append)
    except ray_jobs.FollowError as error:
        seen = ray_jobs.follow(FakeLog(chunks, -1), "j", heard.append, error.seen)
    assert "".join(heard) == "".join(chunks)
    assert seen == len("".join(chunks))


def test_ssh_forwards_loopback_to_loopback_and_never_asks() -> None:
    file = cluster_file(ssh_user="me", ssh_key=Path("/k"), ssh_proxy_command="nc -x p %h %p")
    command = ssh_tunnel_command(file, "10.0.0.1", [Forward(1111, 8265), Forward(2222, 5000)])
    assert command[-1] == "me@10.0.0.1"
    assert [command[i + 1] for i, word in enumerate(command) if word == "-L"] == [
        "127.0.0.1:1111:127.0.0.1:8265",
        "127.0.0.1:2222:127.0.0.1:5000",
    ]
    assert "BatchMode=yes" in command
    assert "StrictHostKeyChecking=accept-new" in command
    assert "ProxyCommand=nc -x p %h %p" in command


def test_kubectl_forwards_on_loopback() -> None:
    command = kubectl_tunnel_command(cluster_file(namespace="ml"), "head-0", [Forward(1, 8265)])
    assert shlex.join(command) == "kubectl --namespace ml port-forward --address 127.0.0.1 pod/head-0 1:8265"


def test_a_tunnel_that_cannot_be_opened_says_why() -> None:
    port = free_port(0)
    with pytest.raises(UserError, match="no route for you"):
        Tunnel(["sh", "-c", "echo no route for you >&2; exit 255"], [port]).open()


_CHATTY_TUNNEL = """
import socket, sys, time
sys.stderr.write("x" * 1_000_000)
sys.stderr.flush()
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(60)
"""


def test_tunnel_that_fills_a_pipe_with_messages_still_opens() -> None:
    port = free_port(0)
    with Tunnel([sys.executable, "-c", _CHATTY_TUNNEL, str(port)], [port], timeout=20) as tunnel:
        assert tunnel.alive


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A port of this machine that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept_all, args=(server,), daemon=True)
        thread.start()
        yield server.getsockname()[1]


def _accept_all(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def test_a_tunnel_lives_and_ends_with_its_block(echo_port: int) -> None:
    with Tunnel([sys.executable, "-c", "import time; time.sleep(60)"], [echo_port]) as tunnel:
        assert tunnel.alive
    assert not tunnel.alive


def test_a_port_that_is_taken_is_not_given(echo_port: int) -> None:
    assert free_port(echo_port) != echo_port


def test_options_are_read_and_taken_out() -> None:
    argv = ["--config", "a.yaml", "--set", "x=1", "--cluster=c.yaml", "--config=b.yaml", "--set=y.z=2=3"]
    assert option(argv, "--config") == "b.yaml"
    assert option(argv, "--name") is None
    assert without_option(argv, "--config") == ["--set", "x=1", "--cluster=c.yaml", "--set=y.z=2=3"]
    assert without_option(argv, "--cluster") == [w for w in argv if not w.startswith("--cluster")]
    assert overrides(argv) == {"x": "1", "y.z": "2=3"}


def test_the_job_takes_code_and_configuration_along_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\n")
    folder = tmp_path / "job"
    folder.mkdir()
    argv = fill_job_folder(folder, ["--config", str(mine), "--set", "a=1"])
    assert option(argv, "--config") == "experiment/mine.yaml"
    assert (folder / "experiment" / "mine.yaml").read_text() == "name: mine\n"
    assert (folder / "tkd_search" / "cluster" / "job_package.py").exists()
    assert {entry.name for entry in folder.iterdir()} <= {"tkd_search", "configs", "experiment"}
    assert not list(folder.rglob("__pycache__"))


def test_the_big_models_own_file_travels_along(tmp_path: Path) -> None:
    weights, mine, folder = tmp_path / "f.safetensors", tmp_path / "mine.yaml", tmp_path / "job"
    weights.write_bytes(b"f")
    mine.write_text(f"big_model: {{weights: {weights}}}\n")
    folder.mkdir()
    argv = fill_job_folder(folder, ["--config", str(mine)])
    assert overrides(argv)["big_model.weights"] == "weights/f.safetensors"
    assert (folder / "weights" / "f.safetensors").read_bytes() == b"f"
    (tmp_path / "other").mkdir()
    named = ["--config", str(mine), "--set", "big_model.weights=IMAGENET1K_V1"]
    assert fill_job_folder(tmp_path / "other", named) == [
        *("--set", "big_model.weights=IMAGENET1K_V1", "--config", "experiment/mine.yaml")
    ]


def test_a_missing_configuration_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        fill_job_folder(tmp_path, ["--config", "none.yaml"])


def test_results_are_never_laid_over_a_search_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.journal").write_text("begun here")
    with pytest.raises(UserError, match="--name"):
        run_on_cluster(CLUSTERS / "aws.yaml", ["--output", str(tmp_path)], "mine")


def test_runs_lie_beside_the_data_where_hosts_share_a_folder() -> None:
    assert runs_folder(cluster_file(storage="/nfs/tkd")) == "/nfs/tkd/runs"
    assert runs_folder(cluster_file(storage="s3://b/tkd")).startswith("${TKD_STATE")
    assert runs_folder(read_cluster_file(CLUSTERS / "aws.yaml")).endswith("/runs")


def test_local_data_is_found_in_the_file_and_the_override_wins(tmp_path: Path) -> None:
    images, other = tmp_path / "images", tmp_path / "other"
    images.mkdir()
    other.mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(f"data:\n  path: {images}\n")
    argv = ["--config", str(config)]
    assert local_data(argv) == images
    assert local_data([*argv, "--set", f"data.path={other}"]) == other
    assert local_data([*argv, "--set", "data.path=s3://b/images"]) is None
    assert local_data([]) is None


def test_data_that_is_too_large_is_not_sent_and_the_way_out_is_said(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(MAX_UPLOAD_BYTES + 1)  # a hole: takes no disk
    from tkd_search.cluster.head import SshHead

    with pytest.raises(UserError, match="aws s3 sync"):
        send_data(SshHead(cluster_file(storage="s3://b"), "host"), big, print)


def test_changed_data_gets_another_place() -> None:
    assert remote_folder(Path("/d"), 1) != remote_folder(Path("/d"), 2)
    assert remote_folder(Path("/d"), 1) == remote_folder(Path("/d"), 1)
