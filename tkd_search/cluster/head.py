"""The way in to a cluster's head: over SSH, or into a Kubernetes pod. One interface for both."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tkd_search.cluster.cluster_file import ClusterFile
from tkd_search.cluster.tunnels import (
    Forward,
    kubectl_tunnel_command,
    ssh_options,
    ssh_target,
    ssh_tunnel_command,
)
from tkd_search.errors import UserError


class Head(Protocol):
    """A head that can be reached."""

    def token(self) -> str:
        """The cluster's Ray token; '' where none is known here."""

    def tunnel_command(self, forwards: Sequence[Forward]) -> list[str]:
        """The command that forwards ports of the loopback here to ports of the head's loopback."""

    def shell_command(self, script: str) -> list[str]:
        """The command that runs a shell script on the head."""

    def fetch(self, remote: str, local: Path) -> bool:
        """Copy the contents of a folder (in the head's shell syntax) here; False where that failed."""


class SshHead:
    """A head behind SSH, as ``ray up`` makes them.

    Args:
        file: the cluster file.
        host: the head's address.
    """

    def __init__(self, file: ClusterFile, host: str) -> None:
        self.file, self.host = file, host

    def token(self) -> str:
        """The token of this machine, which the cluster file's ``file_mounts`` copied to the cluster."""
        return local_token()

    def tunnel_command(self, forwards: Sequence[Forward]) -> list[str]:
        """``ssh -N -L …``."""
        return ssh_tunnel_command(self.file, self.host, forwards)

    def shell_command(self, script: str) -> list[str]:
        """``ssh user@host script``."""
        return ["ssh", *ssh_options(self.file), ssh_target(self.file, self.host), script]

    def fetch(self, remote: str, local: Path) -> bool:
        """Stream a tar of the folder: needs nothing on either side that ``ray up`` does not need too."""
        return _fetch_tar(self.shell_command(_tar_script(remote)), local)

    def send(self, local: Path, remote: str) -> None:
        """Copy a file or folder to the head with rsync.

        Raises:
            UserError: with rsync's words where it fails.
        """
        _run(self.shell_command(f'mkdir -p "{Path(remote).parent}"'), "the head could not be written to")
        shell = " ".join(["ssh", *(_quoted(word) for word in ssh_options(self.file))])
        source = f"{local}/" if local.is_dir() else str(local)
        command = ["rsync", "-a", "-e", shell, source, f"{ssh_target(self.file, self.host)}:{remote}"]
        _run(command, "the data could not be copied to the head")


class KubernetesHead:
    """The head pod of a RayCluster.

    Args:
        file: the manifest's cluster.
        pod: name of the head's pod.
    """

    def __init__(self, file: ClusterFile, pod: str) -> None:
        self.file, self.pod = file, pod

    def token(self) -> str:
        """The token in the Secret that KubeRay named like the cluster."""
        template = '{{index .data "auth_token" | base64decode}}'
        command = [*_kubectl(self.file), "get", "secret", self.file.name, "-o", f"go-template={template}"]
        return _run(command, "the cluster's token could not be read").strip()

    def tunnel_command(self, forwards: Sequence[Forward]) -> list[str]:
        """``kubectl port-forward pod/…``."""
        return kubectl_tunnel_command(self.file, self.pod, forwards)

    def shell_command(self, script: str) -> list[str]:
        """``kubectl exec pod -- bash -c script``."""
        return [*_kubectl(self.file), "exec", self.pod, "-c", "ray-head", "--", "bash", "-c", script]

    def fetch(self, remote: str, local: Path) -> bool:
        """Stream a tar of the folder out of the pod."""
        return _fetch_tar(self.shell_command(_tar_script(remote)), local)


def find_head(file: ClusterFile) -> SshHead | KubernetesHead:
    """Find the head of a running cluster.

    Raises:
        UserError: where no head runs, with the command that starts one.
    """
    start = f"kubectl apply -f {file.path}" if file.provider == "kuberay" else f"ray up {file.path}"
    if file.provider == "kuberay":
        selector = f"ray.io/cluster={file.name},ray.io/node-type=head"
        command = [*_kubectl(file), "get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}"]
        return KubernetesHead(file, _run(command, "no head pod was found", f"start it: {start}").strip())
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-head-ip", str(file.path)]
    lines = _run(command, "no head was found", f"start it: {start}").split()
    if not lines:
        raise UserError("--cluster", "no head was found", "a cluster that is up", f"start it: {start}")
    return SshHead(file, lines[-1])


def local_token() -> str:
    """The Ray token of this machine: ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token``."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else ""


def _kubectl(file: ClusterFile) -> list[str]:
    return ["kubectl", *(["--namespace", file.namespace] if file.namespace else [])]


def _tar_script(remote: str) -> str:
    # Checkpoints and spools stay: what ships is small.
    files = "summary.json record.json config.yaml pareto.* students"
    return f'cd "{remote}" && tar -cf - --ignore-failed-read {files} 2> /dev/null'


def _fetch_tar(command: list[str], local: Path) -> bool:
    local.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as source:
        unpack = subprocess.run(["tar", "-xf", "-", "-C", str(local)], stdin=source.stdout, check=False)
    return unpack.returncode == 0 and any(local.iterdir())


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _run(command: list[str], trouble: str, hint: str = "") -> str:
    if shutil.which(command[0]) is None:
        raise UserError("--cluster", f"{trouble}: {command[0]} is not installed", f"{command[0]} on the PATH")
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError("--cluster", f"{trouble}: {words[-1] if words else ''}", "a cluster that is up", hint)
    return done.stdout
