"""Process on every cluster host, beside Ray.

The node agent restarts MLflow, drains the node on a preemption notice, and shuts idle machines down.

``python -m tkd_search.cluster.node_agent start head --mlflow --idle-minutes 60`` starts it in the background
and returns at once. A minute after Ray has ended on this host (``ray down``) the agent ends Ray's remaining
processes and itself, unless it has an idle machine to shut down. ``node_agent mlflow`` runs the MLflow server
in the foreground, for a container.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import click
from filelock import FileLock, Timeout

from tkd_search.cluster.idle_shutdown import IdleClock
from tkd_search.cluster.mlflow_server import server_command, server_environment, server_settings, state_folder
from tkd_search.cluster.ray_jobs import ACTIVE
from tkd_search.cluster.spot_notice import drain_command, seconds_left

_STEP_SECONDS = 5.0
_RAY_GONE_SECONDS = 60.0


@click.group()
def main() -> None:
    """Run the node agent, or the MLflow server, on a cluster host."""


@main.command()
@click.argument("role", type=click.Choice(["head", "worker"]))
@click.option("--mlflow", is_flag=True, help="Keep an MLflow server running.")
@click.option(
    "--idle-minutes", default=0.0, help="Shut the machine down after this idle time, in minutes; 0: never."
)
@click.option("--spot", type=click.Choice(["aws", "gcp"]), help="Drain the node on this cloud's notice.")
def start(role: str, mlflow: bool, idle_minutes: float, spot: str | None) -> None:
    """Start the node agent in the background, unless one runs already."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tkd_search.cluster.node_agent", "watch", role]
    command += ["--idle-minutes", str(idle_minutes)] + (["--mlflow"] if mlflow else [])
    command += ["--spot", spot] if spot else []
    with (folder / "node_agent.log").open("ab") as log:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )


@main.command()
@click.argument("role", type=click.Choice(["head", "worker"]))
@click.option("--mlflow", is_flag=True)
@click.option("--idle-minutes", default=0.0)
@click.option("--spot")
def watch(role: str, mlflow: bool, idle_minutes: float, spot: str | None) -> None:
    """Run the node agent in the foreground."""
    folder = state_folder()
    lock = FileLock(folder / "node_agent.lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        return
    with held:
        _watch(role, folder, mlflow, idle_minutes, spot)


@main.command("mlflow")
def mlflow_foreground() -> None:
    """Run the MLflow server in the foreground and write the file ``env`` with the settings of its clients."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    environment = server_environment(folder, os.environ)
    password = (folder / "mlflow_password").read_text(encoding="utf-8").strip()
    descriptor = os.open(folder / "env", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 MLFLOW_TRACKING_USERNAME=admin\n")
        file.write(f"export MLFLOW_TRACKING_PASSWORD={password}\n")
    command = server_command(*server_settings(os.environ, folder))
    os.execvpe(command[0], command, environment)


def _watch(role: str, folder: Path, mlflow: bool, idle_minutes: float, spot: str | None) -> None:
    server = _Server(folder) if mlflow else None
    drained = not spot
    clock, ray_seen = IdleClock(), time.monotonic()
    try:
        while True:
            now, alive = time.monotonic(), _ray_alive(role)
            ray_seen = now if alive else ray_seen
            gone = now - ray_seen > _RAY_GONE_SECONDS
            if server is not None and not gone:
                server.ensure_running()
            if not drained and alive:
                drained = _drain_on_notice(spot or "")
            if gone and not idle_minutes:
                # `ray down` stops Ray on the head only; a worker's raylet then ends, but not its log monitor.
                subprocess.run(["ray", "stop", "--force"], capture_output=True, check=False)
                return
            busy = alive if role == "worker" else _logged_in() or (alive and _has_jobs())
            clock = clock.observe(now, busy)
            if clock.due(now, idle_minutes):
                print(f"idle for {idle_minutes:g} minutes: shutting down", flush=True)
                sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
                subprocess.run([*sudo, "shutdown", "-h", "now"], check=False)
                return
            time.sleep(_STEP_SECONDS)
    finally:
        if server is not None:
            server.stop()


def _drain_on_notice(cloud: str) -> bool:
    """Drain the node if there is a preemption notice; return whether Ray accepted the command."""
    seconds = seconds_left(cloud)
    if seconds is None:
        return False
    commands = [drain_command(words, seconds, cloud) for words in command_lines("raylet")]
    codes = [subprocess.run(command, check=False).returncode for command in commands if command is not None]
    return bool(codes) and not any(codes)


class _Server:
    """MLflow server as a child process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.child: subprocess.Popen[bytes] | None = None

    def ensure_running(self) -> None:
        """Start the server if it does not run."""
        if self.child is not None and self.child.poll() is None:
            return
        if self.child is not None:  # Its worker processes may still run and occupy the port.
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
        environment = server_environment(self.folder, os.environ)
        with (self.folder / "mlflow.log").open("ab") as log:
            self.child = subprocess.Popen(
                server_command(*server_settings(os.environ, self.folder)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        """Terminate the server and its worker processes."""
        if self.child is None:
            return
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.child.pid, signal_number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and self.child.poll() is None:
                time.sleep(0.1)


def _ray_alive(role: str) -> bool:
    """Return whether Ray runs here: on the head its control store answers, on a worker a raylet exists."""
    if role == "head":
        try:
            with socket.create_connection(("127.0.0.1", 6379), timeout=5):
                return True
        except OSError:
            return False
    return bool(command_lines("raylet"))


def command_lines(name: str) -> list[list[str]]:
    """Return the command lines of all processes of this host with a given name."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text(encoding="utf-8").strip() == name:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace").split("\0"))
    return found


def _logged_in() -> bool:
    """Return whether a user is logged in; False where this cannot be told."""
    if not shutil.which("who"):
        return False
    return bool(subprocess.run(["who"], capture_output=True, text=True, check=False).stdout.strip())


def _has_jobs() -> bool:
    """Return whether a job runs; also True if the dashboard does not answer."""
    token_file = Path.home() / ".ray" / "auth_token"
    token = token_file.read_text(encoding="utf-8").strip() if token_file.exists() else ""
    request = urllib.request.Request(
        "http://127.0.0.1:8265/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            jobs = json.load(response)
    except (OSError, ValueError):
        return True
    return any(job.get("status") in ACTIVE for job in jobs)


if __name__ == "__main__":
    main()
