"""Knocking at ports of a host of ours as a stranger without the token would."""

import urllib.error
import urllib.request
from dataclasses import dataclass

import grpc

# A harmless question to each service that Ray's processes offer.
_QUESTIONS = (
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
class Door:
    """A port that listens to other hosts.

    Attributes:
        port: its number.
        process: name of the process that listens.
        answers: what a stranger was told: gRPC status names and ``HTTP code path``.
    """

    port: int
    process: str
    answers: tuple[str, ...]

    @property
    def closed(self) -> bool:
        """Whether the token was asked for, and nothing was given without it."""
        given = [a for a in self.answers if a == "OK" or a.startswith("HTTP 2")]
        asked = [a for a in self.answers if a == "UNAUTHENTICATED" or a.startswith(("HTTP 401", "HTTP 403"))]
        return bool(asked) and not given

    @property
    def metrics_alone(self) -> bool:
        """Whether it gives out Prometheus metrics, and nothing else was seen."""
        given = [a for a in self.answers if a == "OK" or a.startswith("HTTP 2")]
        return "HTTP 200 /metrics" in given and "OK" not in given


def open_ports(listing: str) -> list[tuple[int, str]]:
    """Ports and processes of ``ss -Hltnp`` that listen beyond loopback."""
    found = []
    for line in listing.splitlines():
        words = line.split()
        address, _, port = words[3].rpartition(":")
        process = words[5].split('"')[1] if len(words) > 5 else "?"
        if not address.startswith(("127.", "[::1]")):
            found.append((int(port), process))
    return sorted(set(found))


def knock(host: str, port: int, process: str) -> Door:
    """Ask a port everything, without a token."""
    answers = [_http(host, port, page) for page in _PAGES]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        answers += [_grpc(channel, question) for question in _QUESTIONS]
    return Door(port, process, tuple(sorted(set(answers))))


def _http(host: str, port: int, page: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{page}", timeout=3) as answer:
            return f"HTTP {answer.status} {page}"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code} {page}"
    except Exception as error:
        return type(error).__name__


def _grpc(channel: grpc.Channel, question: str) -> str:
    try:
        channel.unary_unary(question)(b"", timeout=3)
        return "OK"
    except grpc.RpcError as error:
        return str(error.code().name)
