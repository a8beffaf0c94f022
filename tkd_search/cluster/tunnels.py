"""Tunnels to the web pages of a cluster's head: ``ssh -L`` or ``kubectl port-forward``.

Pure functions build the commands; :class:`Tunnel` runs one.
"""

import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tkd_search.cluster.cluster_file import ClusterFile
from tkd_search.errors import UserError

_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True)
class Forward:
    """A port of this machine's loopback, forwarded to a port of the head's loopback."""

    local: int
    remote: int


def ssh_options(file: ClusterFile) -> list[str]:
    """Return the options of every ssh command to this cluster's head; ssh never prompts with them.

    The first connection stores the host key, later ones check it. The keys are in one file for each
    cluster, because rented machines reuse addresses.
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
    """Return ``user@host`` with the user of the cluster file, or ``host`` where the file names none."""
    return f"{file.ssh_user}@{host}" if file.ssh_user else host


def ssh_tunnel_command(file: ClusterFile, host: str, forwards: Sequence[Forward]) -> list[str]:
    """Return ``ssh -N`` with one ``-L`` per forward; it exits if a forward or the connection fails."""
    command = ["ssh", "-N", *ssh_options(file), "-o", "ExitOnForwardFailure=yes"]
    command += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    for forward in forwards:
        command += ["-L", f"127.0.0.1:{forward.local}:127.0.0.1:{forward.remote}"]
    return [*command, ssh_target(file, host)]


def kubectl_tunnel_command(file: ClusterFile, pod: str, forwards: Sequence[Forward]) -> list[str]:
    """Return ``kubectl port-forward`` to the head's pod."""
    namespace = ["--namespace", file.namespace] if file.namespace else []
    ports = [f"{forward.local}:{forward.remote}" for forward in forwards]
    return ["kubectl", *namespace, "port-forward", "--address", "127.0.0.1", f"pod/{pod}", *ports]


def free_port(preferred: int) -> int:
    """Return the preferred port of the loopback if it is free, otherwise another free one.

    Raises:
        OSError: no port is free.
    """
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
    """Context manager that runs a tunnel command.

    Args:
        command: opens the tunnel and runs until it is terminated.
        ports: local ports that accept connections once the tunnel is open.
        timeout: seconds to wait for them.
    """

    def __init__(self, command: Sequence[str], ports: Sequence[int], timeout: float = 30.0) -> None:
        self.command, self.ports, self.timeout = list(command), list(ports), timeout
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Tunnel":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the tunnel's process runs."""
        return self._process is not None and self._process.poll() is None

    def open(self) -> None:
        """Start the command, again if necessary, and wait until its ports accept connections.

        Raises:
            UserError: the tunnel cannot be opened; shows the end of what ssh or kubectl wrote to stderr.
        """
        self.close()
        # A file, not a pipe: nothing reads a pipe while the tunnel runs, and a full one blocks the process.
        with tempfile.TemporaryFile() as errors:
            # A session of its own: Ctrl-C detaches from the job and must not end the tunnel first.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            deadline = time.monotonic() + self.timeout
            while not all(_accepts(port) for port in self.ports):
                if not self.alive or time.monotonic() > deadline:
                    self.close()
                    raise UserError(
                        "--cluster",
                        f"no tunnel to the head: {_end_of(errors) or f'no answer in {self.timeout:g} s'}",
                        "a running cluster that accepts connections from your address",
                        f"check that it runs and that its firewall allows you. Try: {' '.join(self.command)}",
                    )
                time.sleep(0.1)

    def close(self) -> None:
        """Terminate the command; does nothing if it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _end_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()[-_SHOWN_CHARACTERS:]
