"""Preemption notices of AWS and Google Cloud, and the Ray command that drains the node.

Ray does not query the clouds' metadata services. After ``ray drain-node`` it starts no new work on the node,
and a search moves the node's trials to other machines before the cloud stops it.
"""

import datetime
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

AWS = "http://169.254.169.254"
GCP = "http://metadata.google.internal"
GCP_SECONDS = 30.0
"""Seconds between Google's notice and the end of the machine; the notice itself contains no time."""

_TIMEOUT = 2.0


def seconds_left(cloud: str, base: str = "") -> float | None:
    """Return the seconds until the cloud stops this machine; None if there is no notice or no answer.

    Args:
        cloud: ``aws`` or ``gcp``.
        base: address of the metadata service; default: the cloud's own.
    """
    try:
        return _aws(base or AWS) if cloud == "aws" else _gcp(base or GCP)
    except (OSError, ValueError, KeyError):
        return None


def drain_command(raylet: Sequence[str], seconds: float, cloud: str) -> list[str] | None:
    """Return the ``ray drain-node`` command for a node.

    Args:
        raylet: command line of the node's raylet, which contains the ids of node and cluster.
        seconds: time until the cloud stops the machine.
        cloud: name of the cloud, for the reason that Ray logs.

    Returns:
        None if the command line is not that of a raylet.
    """
    flags = dict(word.removeprefix("--").split("=", 1) for word in raylet if "=" in word)
    if "node_id" not in flags or "gcs-address" not in flags:
        return None
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", flags["gcs-address"], "--node-id", flags["node_id"]]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", f"preempted by {cloud}"]
    return [*command, "--deadline-remaining-seconds", str(int(seconds))]


def _aws(base: str) -> float | None:
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _request(f"{base}/latest/api/token", lifetime, "PUT")
    try:
        headers = {"X-aws-ec2-metadata-token": token}
        notice = _request(f"{base}/latest/meta-data/spot/instance-action", headers)
    except urllib.error.HTTPError:  # 404: no notice
        return None
    end = datetime.datetime.fromisoformat(json.loads(notice)["time"])
    return max(0.0, (end - datetime.datetime.now(datetime.UTC)).total_seconds())


def _gcp(base: str) -> float | None:
    preempted = _request(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GCP_SECONDS if preempted.strip() == "TRUE" else None


def _request(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        return str(answer.read().decode())
