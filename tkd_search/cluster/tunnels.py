"""Tunnels from this machine to the pages on a cluster's head: ``ssh -L``, or ``kubectl port-forward``.

The commands are built by pure functions; :class:`Tunnel` runs one and ends it.
"""

import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tkd_search.cluster.cluster_file import ClusterFile
from tkd_search.errors import UserError


@dataclass(frozen=True)
class Forward:
    """A port of this machine's loopback that leads to a port of the head's loopback."""

    local: int
    remote: int


def ssh_options(file: ClusterFile) -> list[str]:
    """Options that every ssh to this cluster's head needs; never asks anything.

    The host's key is learnt at the first contact and checked from then on, in a file of the cluster's own,
    since rented machines reuse addresses.
    """
    known = Path("~/.ssh").expanduser() / f"known_hosts_{file.name}"
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "StrictHostKeyChecking=accept-new"]
    options += ["-o", f"UserKnownHostsFile={known}", "-o", "LogLevel=ERROR"]
    if file.ssh_key is not None:
        options += ["-i", str(file.ssh_key), "-o", "IdentitiesOnly=yes"]
    if file.ssh_proxy_command:
        options += ["-o", f"ProxyCommand={file.ssh_proxy_command}"]
    return options


def ssh_target(file: ClusterFile, host: str) -> str:
    """``user@host`` as the cluster file says."""
    return f"{file.ssh_user}@{host}" if file.ssh_user else host


def ssh_tunnel_command(file: ClusterFile, host: str, forwards: Sequence[Forward]) -> list[str]:
    """``ssh -N`` with one ``-L`` per forward; ends where one of them fails or the link is dead."""
    command = ["ssh", "-N", *ssh_options(file)]
    command += [
        "-o",
        "ExitOnForwardFailure=yes",
        "-o",
        "ServerAliveInterval=15",
        "-o",
        "ServerAliveCountMax=4",
    ]
    for forward in forwards:
        command += ["-L", f"127.0.0.1:{forward.local}:127.0.0.1:{forward.remote}"]
    return [*command, ssh_target(file, host)]


def kubectl_tunnel_command(file: ClusterFile, pod: str, forwards: Sequence[Forward]) -> list[str]:
    """``kubectl port-forward`` to the head's pod."""
    namespace = ["--namespace", file.namespace] if file.namespace else []
    ports = [f"{forward.local}:{forward.remote}" for forward in forwards]
    return ["kubectl", *namespace, "port-forward", "--address", "127.0.0.1", f"pod/{pod}", *ports]


def free_port(preferred: int) -> int:
    """The preferred port of the loopback where it is free, else some free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


class Tunnel:
    """A running tunnel; a context manager.

    Args:
        command: what opens it and stays.
        ports: local ports that answer once it stands.
        timeout: seconds to wait for them.
    """

    def __init__(self, command: Sequence[str], ports: Sequence[int], timeout: float = 30.0) -> None:
        self.command, self.ports, self.timeout = list(command), list(ports), timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Tunnel":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the tunnel's process still runs."""
        return self._process is not None and self._process.poll() is None

    def open(self) -> None:
        """Start it and wait until its ports answer.

        Raises:
            UserError: with the words of ssh or kubectl, where it cannot be opened.
        """
        self.close()
        # A session of its own: Ctrl-C is for us, who then say how to come back, not for the tunnel.
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + self.timeout
        while not all(_answers(port) for port in self.ports):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                words = self._process.stderr.read().strip() if self._process.stderr else ""
                raise UserError(
                    "--cluster",
                    f"no tunnel to the head: {words or 'it did not answer in time'}",
                    "a cluster that is up and lets you in",
                    f"is it up, and your address allowed? Try: {' '.join(self.command)}",
                )
            time.sleep(0.1)

    def close(self) -> None:
        """End it; harmless where it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
