"""Tunnel commands, and tunnels that are real processes."""

import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import cluster_file
from tkd_search.cluster.tunnels import Forward, Tunnel, free_port, kubectl_tunnel_command, ssh_tunnel_command
from tkd_search.errors import UserError


def test_ssh_command_forwards_loopback_ports_and_never_prompts() -> None:
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


def test_kubectl_command_forwards_loopback_ports() -> None:
    command = kubectl_tunnel_command(cluster_file(namespace="ml"), "head-0", [Forward(1, 8265)])
    assert shlex.join(command) == "kubectl --namespace ml port-forward --address 127.0.0.1 pod/head-0 1:8265"


def test_error_of_a_failed_tunnel_shows_its_stderr() -> None:
    port = free_port(0)
    with pytest.raises(UserError, match="no route to host"):
        Tunnel(["sh", "-c", "echo no route to host >&2; exit 255"], [port]).open()


_TUNNEL_WITH_LONG_STDERR = """
import socket, sys, time
sys.stderr.write("x" * 1_000_000)
sys.stderr.flush()
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(60)
"""


def test_tunnel_opens_although_it_writes_more_than_a_pipe_holds() -> None:
    port = free_port(0)
    with Tunnel([sys.executable, "-c", _TUNNEL_WITH_LONG_STDERR, str(port)], [port], timeout=20) as tunnel:
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


def test_tunnel_process_ends_with_the_with_block(echo_port: int) -> None:
    with Tunnel([sys.executable, "-c", "import time; time.sleep(60)"], [echo_port]) as tunnel:
        assert tunnel.alive
    assert not tunnel.alive


def test_free_port_avoids_a_port_in_use(echo_port: int) -> None:
    assert free_port(echo_port) != echo_port
