"""Simulated hosts on one machine: network namespaces on a bridge, each with its own sshd, home and processes.

Needs root and Debian's packages iproute2, openssh-server, openssh-client, rsync, util-linux. Addresses are
10.77.0.0/24, which exist in the namespaces and on their bridge only. Powering a host off kills its init, and
with it all its processes at once, without a signal that they could handle.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("ip", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "mount")
SSHD = "/usr/sbin/sshd"
BRIDGE = "tkdbr"
_SUBNET = "10.77.0"
_HOME = pwd.getpwuid(0).pw_dir


def reason_for_skipping() -> str:
    """Return why hosts cannot be created on this machine; '' if they can."""
    if os.geteuid() != 0:
        return "needs root, to create network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    missing += [] if Path(SSHD).exists() else ["sshd"]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2 openssh-server openssh-client rsync)"
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        return f"the bridge {BRIDGE} is in use by another run"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if probe.returncode == 0 else "this machine does not allow network namespaces"


@dataclass
class Host:
    """One host.

    Attributes:
        number: from 0.
        address: address on the bridge.
        home: path of its home folder outside its namespace.
        init: process id of the parent of its init; 0 while it is off.
    """

    number: int
    address: str
    home: Path
    init: int = 0

    @property
    def name(self) -> str:
        """Name of its network namespace."""
        return f"tkdn{self.number}"


class Hosts:
    """Context manager for several hosts and the bridge between them.

    Args:
        folder: an empty folder for keys, homes and logs.
        count: number of hosts.
    """

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.folder = folder
        self.hosts = [Host(i, f"{_SUBNET}.1{i}", folder / f"home{i}") for i in range(count)]
        self.key = folder / "key"

    def __enter__(self) -> "Hosts":
        try:
            self._create_network()
            for host in self.hosts:
                self.power_on(host.number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            self.power_off(host.number)
            # Without this, the kernel deletes the link some time after the namespace.
            _try("ip", "link", "del", f"tkdv{host.number}")
            _try("ip", "netns", "del", host.name)
        _try("ip", "link", "del", BRIDGE)

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def power_on(self, number: int) -> None:
        """Start a host and wait for its sshd."""
        host = self.hosts[number]
        log = (self.folder / f"sshd{number}.log").open("a")
        process = subprocess.Popen(
            ["ip", "netns", "exec", host.name, "unshare", "--mount", "--uts", "--pid", "--fork",
             "--mount-proc", "bash", "-c", self._init_script(host)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        log.close()
        host.init = process.pid
        _wait_for_port(host.address, 22)

    def power_off(self, number: int) -> None:
        """End a host at once: the kernel kills all processes of a PID namespace whose init ends."""
        host = self.hosts[number]
        if not host.init:
            return
        for pid in [*_children(host.init), host.init]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        with contextlib.suppress(ChildProcessError):
            os.waitpid(host.init, 0)
        host.init = 0

    def run(self, number: int, script: str) -> str:
        """Run a shell script on a host and return its output."""
        (init,) = _children(self.hosts[number].init)
        command = ["nsenter", "-t", str(init), "-a", "bash", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def processes(self, number: int) -> list[str]:
        """Return the command lines of a host's processes, without init, sshd and the command used here."""
        if not self.hosts[number].init:
            return []
        lines = self.run(number, "ps -ww -eo pid=,args=").splitlines()
        entries = [line.split(None, 1) for line in lines]
        ignored = ("ps -ww", "bash -c ps", "sshd")
        return [
            args
            for pid, args in entries
            if pid != "1" and not args.startswith(ignored) and "<defunct>" not in args
        ]

    def _create_network(self) -> None:
        self.folder.chmod(0o700)
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("key", "hostkey"):
            path = self.folder / name
            if not path.exists():
                _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
        shutil.copy(self.folder / "key.pub", self.folder / "authorized_keys")
        (self.folder / "authorized_keys").chmod(0o600)
        _do("ip", "link", "add", BRIDGE, "type", "bridge")
        _do("ip", "addr", "add", f"{_SUBNET}.254/24", "dev", BRIDGE)
        _do("ip", "link", "set", BRIDGE, "up")
        for host in self.hosts:
            cable = f"tkdv{host.number}"
            _do("ip", "netns", "add", host.name)
            _do("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _do("ip", "link", "set", cable, "master", BRIDGE, "up")
            _do("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _do("ip", "-n", host.name, "link", "set", "eth0", "up")
            _do("ip", "-n", host.name, "link", "set", "lo", "up")
            _do("ip", "-n", host.name, "route", "add", "default", "via", f"{_SUBNET}.254")
            for sub in (".ssh", ".ray", ".tkd"):
                (host.home / sub).mkdir(parents=True, exist_ok=True)
            (host.home / ".bashrc").touch()
            (self.folder / f"tmp{host.number}").mkdir(exist_ok=True)

    def _init_script(self, host: Host) -> str:
        """Mount a private home, /tmp/ray and /dev/shm; keep the folders below the home that Python needs."""
        needed = {Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]}
        keep = [path for path in needed if Path(_HOME) in path.parents]
        lines = ["set -e", f"hostname node{host.number}", "mkdir -p /tmp/ray"]
        for path in keep:
            inside = host.home / path.relative_to(_HOME)
            inside.mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {path} {inside}")
        lines += [
            f"mount --rbind {host.home} {_HOME}",
            f"mount --bind {self.folder}/tmp{host.number} /tmp/ray",
            "mount -t tmpfs -o size=2g tmpfs /dev/shm",
            f"exec {SSHD} -D -e -p 22 -h {self.folder}/hostkey -o PidFile=none"
            f" -o AuthorizedKeysFile={self.folder}/authorized_keys -o StrictModes=no -o UsePAM=no"
            " -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o MaxStartups=100",
        ]
        return "\n".join(lines)


def _do(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _try(*command: str) -> None:
    subprocess.run(command, check=False, capture_output=True)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _wait_for_port(address: str, port: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{address}:{port} does not answer")
