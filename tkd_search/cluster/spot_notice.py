"""A cloud's notice that it is about to take this machine back, and the words in which Ray is told.

Ray itself does not ask the clouds. Told so (``ray drain-node``), it starts nothing more on the node, and the
driver of a search moves the trials there to other machines before they are lost.
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
"""What Google gives a machine from its notice on; it does not say the time."""

_TIMEOUT = 2.0


def seconds_left(cloud: str, base: str = "") -> float | None:
    """Seconds until the cloud takes this machine back; None where it has said nothing of the kind.

    Args:
        cloud: ``aws`` or ``gcp``.
        base: address of the metadata service; default: the cloud's.
    """
    try:
        return _aws(base or AWS) if cloud == "aws" else _gcp(base or GCP)
    except (OSError, ValueError, KeyError):
        return None  # no answer is no notice


def drain_command(raylet: Sequence[str], seconds: float, cloud: str) -> list[str] | None:
    """The command that tells Ray of the end of a node.

    Args:
        raylet: the command line of the node's raylet, which names the node and the cluster.
        seconds: until the end.
        cloud: who said so.

    Returns:
        None where the command line is none of a raylet.
    """
    flags = dict(word.removeprefix("--").split("=", 1) for word in raylet if "=" in word)
    if "node_id" not in flags or "gcs-address" not in flags:
        return None
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", flags["gcs-address"], "--node-id", flags["node_id"]]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", f"{cloud} takes it back"]
    return [*command, "--deadline-remaining-seconds", str(int(seconds))]


def _aws(base: str) -> float | None:
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(f"{base}/latest/api/token", lifetime, "PUT")
    try:
        said = _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError:  # 404: no notice
        return None
    at = datetime.datetime.fromisoformat(json.loads(said)["time"])
    return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())


def _gcp(base: str) -> float | None:
    said = _ask(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GCP_SECONDS if said.strip() == "TRUE" else None


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        return str(answer.read().decode())
