"""Access to a cluster's head: over SSH or in a Kubernetes pod, with one interface for both."""

import os
import shlex
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
    """Interface to a cluster's head."""

    def token(self) -> str:
        """Return the cluster's Ray token; '' if this machine has none."""

    def tunnel_command(self, forwards: Sequence[Forward]) -> list[str]:
        """Return the command that forwards local loopback ports to ports of the head's loopback."""

    def shell_command(self, script: str) -> list[str]:
        """Return the command that runs a shell script on the head."""

    def fetch(self, remote: str, local: Path) -> bool:
        """Copy the results in a folder of the head (shell syntax) to this machine; return success."""


class SshHead:
    """Head that is reached over SSH, as ``ray up`` creates it.

    Args:
        file: the cluster file.
        host: address of the head.
    """

    def __init__(self, file: ClusterFile, host: str) -> None:
        self.file, self.host = file, host

    def token(self) -> str:
        """Return this machine's token, which the cluster file's ``file_mounts`` copies to the cluster."""
        return local_token()

    def tunnel_command(self, forwards: Sequence[Forward]) -> list[str]:
        """Return ``ssh -N -L …``."""
        return ssh_tunnel_command(self.file, self.host, forwards)

    def shell_command(self, script: str) -> list[str]:
        """Return ``ssh user@host script``."""
        return ["ssh", *ssh_options(self.file), ssh_target(self.file, self.host), script]

    def fetch(self, remote: str, local: Path) -> bool:
        """Copy the results in a folder through a tar stream, which needs no tool beyond ssh and tar."""
        return _fetch_tar(self.shell_command(_tar_script(remote)), local)

    def send(self, local: Path, remote: str, names: Sequence[str] = ()) -> None:
        """Copy a file or folder to the head with rsync.

        Args:
            local: the file or folder.
            remote: its path on the head, relative to the home.
            names: of a folder the files to copy; all where empty.

        Raises:
            UserError: rsync fails; shows the last line of its output.
        """
        _run(self.shell_command(f'mkdir -p "{Path(remote).parent}"'), "cannot write to the head")
        shell = shlex.join(["ssh", *ssh_options(self.file)])
        source = f"{local}/" if local.is_dir() else str(local)
        chosen = ["--from0", "--files-from=-"] if names else []
        target = f"{ssh_target(self.file, self.host)}:{remote}"
        command = ["rsync", "-a", *chosen, "-e", shell, source, target]
        _run(command, "cannot copy the data to the head", text="\0".join(names))


class KubernetesHead:
    """Head pod of a RayCluster.

    Args:
        file: the cluster's manifest.
        pod: name of the head pod.
    """

    def __init__(self, file: ClusterFile, pod: str) -> None:
        self.file, self.pod = file, pod

    def token(self) -> str:
        """Return the token from the Secret that KubeRay creates with the cluster's name."""
        template = '{{index .data "auth_token" | base64decode}}'
        command = [*_kubectl(self.file), "get", "secret", self.file.name, "-o", f"go-template={template}"]
        return _run(command, "cannot read the cluster's token").strip()

    def tunnel_command(self, forwards: Sequence[Forward]) -> list[str]:
        """Return ``kubectl port-forward pod/…``."""
        return kubectl_tunnel_command(self.file, self.pod, forwards)

    def shell_command(self, script: str) -> list[str]:
        """Return ``kubectl exec pod -- bash -c script``."""
        return [*_kubectl(self.file), "exec", self.pod, "-c", "ray-head", "--", "bash", "-c", script]

    def fetch(self, remote: str, local: Path) -> bool:
        """Copy the results in a folder of the pod through a tar stream."""
        return _fetch_tar(self.shell_command(_tar_script(remote)), local)


def find_head(file: ClusterFile) -> SshHead | KubernetesHead:
    """Return the head of a running cluster.

    Raises:
        UserError: no head runs; names the command that starts one.
    """
    start = f"kubectl apply -f {file.path}" if file.provider == "kuberay" else f"ray up {file.path}"
    if file.provider == "kuberay":
        selector = f"ray.io/cluster={file.name},ray.io/node-type=head"
        command = [*_kubectl(file), "get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}"]
        return KubernetesHead(file, _run(command, "no head pod was found", f"start it: {start}").strip())
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-head-ip", str(file.path)]
    lines = _run(command, "no head was found", f"start it: {start}").split()
    if not lines:
        raise UserError("--cluster", "no head was found", "a running cluster", f"start it: {start}")
    return SshHead(file, lines[-1])


def local_token() -> str:
    """Return this machine's token (``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``, ``~/.ray/auth_token``)."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _kubectl(file: ClusterFile) -> list[str]:
    return ["kubectl", *(["--namespace", file.namespace] if file.namespace else [])]


def _tar_script(remote: str) -> str:
    # Checkpoints and logs stay on the head: they are large, and the results do not need them.
    files = "summary.json record.json config.yaml pareto.* students"
    return f'cd "{remote}" && tar -cf - --ignore-failed-read {files} 2> /dev/null'


def _fetch_tar(command: list[str], local: Path) -> bool:
    local.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as source:
        unpack = subprocess.run(["tar", "-xf", "-", "-C", str(local)], stdin=source.stdout, check=False)
    return unpack.returncode == 0 and any(local.iterdir())


def _run(command: list[str], problem: str, hint: str = "", text: str = "") -> str:
    if shutil.which(command[0]) is None:
        raise UserError("--cluster", f"{problem}: {command[0]} is not installed", f"{command[0]} on the PATH")
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=text)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError("--cluster", f"{problem}: {lines[-1] if lines else ''}", "a running cluster", hint)
    return done.stdout
