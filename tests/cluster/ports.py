"""Probe of a host's ports by a client without the token."""

import urllib.error
import urllib.request
from dataclasses import dataclass

import grpc

# One read-only method of each gRPC service of Ray's processes.
_METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
_PAGES = ("/metrics", "/", "/api/version")


@dataclass(frozen=True)
class PortProbe:
    """Answers of a port that listens beyond loopback.

    Attributes:
        port: number of the port.
        process: name of the process that listens.
        answers: answers without a token: gRPC status names and ``HTTP code path``.
    """

    port: int
    process: str
    answers: tuple[str, ...]

    @property
    def requires_token(self) -> bool:
        """Whether at least one request was refused as unauthenticated, and none succeeded."""
        refused = ("UNAUTHENTICATED", "HTTP 401", "HTTP 403")
        return any(answer.startswith(refused) for answer in self.answers) and not any(
            answer == "OK" or answer.startswith("HTTP 2") for answer in self.answers
        )

    @property
    def serves_metrics_only(self) -> bool:
        """Whether it serves Prometheus metrics, and no gRPC call succeeded."""
        return "HTTP 200 /metrics" in self.answers and "OK" not in self.answers


def open_ports(listing: str) -> list[tuple[int, str]]:
    """Return ports and process names that listen beyond loopback, from the output of ``ss -Hltnp``."""
    found = []
    for line in listing.splitlines():
        words = line.split()
        address, _, port = words[3].rpartition(":")
        process = words[5].split('"')[1] if len(words) > 5 else "?"
        if not address.startswith(("127.", "[::1]")):
            found.append((int(port), process))
    return sorted(set(found))


def probe_port(host: str, port: int, process: str) -> PortProbe:
    """Send all requests to a port, without a token."""
    answers = [_http(host, port, page) for page in _PAGES]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        answers += [_grpc(channel, method) for method in _METHODS]
    return PortProbe(port, process, tuple(sorted(set(answers))))


def _http(host: str, port: int, page: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{page}", timeout=3) as answer:
            return f"HTTP {answer.status} {page}"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code} {page}"
    except Exception as error:
        return type(error).__name__


def _grpc(channel: grpc.Channel, method: str) -> str:
    try:
        channel.unary_unary(method)(b"", timeout=3)
        return "OK"
    except grpc.RpcError as error:
        return str(error.code().name)
