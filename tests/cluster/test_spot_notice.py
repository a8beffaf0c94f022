"""Preemption notices, read from metadata services that answer as the clouds document."""

import datetime
import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from tkd_search.cluster.spot_notice import GCP_SECONDS, drain_command, seconds_left

RAYLET = ["/x/raylet", "--node_id=ab12", "--gcs-address=10.0.0.1:6379", "--labels=", "--huge_pages"]


class Metadata(http.server.ThreadingHTTPServer):
    """Metadata services of both clouds; ``notice`` is AWS's notice, None for none."""

    notice: str | None = None


class Answer(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        self._send(200 if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else 400, "a-token")

    def do_GET(self) -> None:
        notice = self.server.notice
        if self.path.endswith("/spot/instance-action"):
            if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
                self._send(401, "")
            else:
                self._send(404 if notice is None else 200, notice or "")
        elif self.headers.get("Metadata-Flavor") == "Google":
            self._send(200, "FALSE" if notice is None else "TRUE")
        else:
            self._send(403, "")

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_no_notice_and_no_answer_give_none(metadata: Metadata, cloud: str) -> None:
    assert seconds_left(cloud, f"http://127.0.0.1:{metadata.server_port}") is None
    assert seconds_left(cloud, "http://127.0.0.1:9") is None


def test_notice_gives_the_seconds_left(metadata: Metadata) -> None:
    base = f"http://127.0.0.1:{metadata.server_port}"
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
    metadata.notice = json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
    left = seconds_left("aws", base)
    assert left is not None
    assert 3600 < left <= 7200
    assert seconds_left("gcp", base) == GCP_SECONDS
    metadata.notice = json.dumps({"action": "terminate", "time": "2020-01-01T00:00:00Z"})
    assert seconds_left("aws", base) == 0
    metadata.notice = "not JSON"
    assert seconds_left("aws", base) is None


def test_drain_command_names_node_address_and_deadline() -> None:
    command = drain_command(RAYLET, 99.7, "aws")
    assert command is not None
    assert command[command.index("--node-id") + 1] == "ab12"
    assert command[command.index("--address") + 1] == "10.0.0.1:6379"
    assert command[-2:] == ["--deadline-remaining-seconds", "99"]
    assert drain_command(["python", "raylet.py"], 1, "aws") is None
