"""What ``doctor`` asks of a machine, one answer each with its mend."""

import importlib.metadata
import os
import shutil
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from tkd_search.cluster.head import local_token
from tkd_search.cluster.node_probe import NodeReport, disk_free
from tkd_search.storage.object_store import write_error

State = Literal["ok", "mind", "wrong"]
LEAST_DISK, LEAST_SHARED_MEMORY = 5 * 10**9, 10**9
"""Bytes below which a search is likely to run out, where its bank is not known."""


@dataclass(frozen=True)
class Check:
    """One answer.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``mind`` where a search can run all the same; ``wrong`` where it cannot.
        found: what was found.
        mend: what to do; '' where nothing has to be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""

    def line(self) -> str:
        """The answer in one line."""
        sign = {"ok": "ok   ", "mind": "mind ", "wrong": "WRONG"}[self.state]
        return f"{sign}  {self.name:<12} {self.found}" + (f"  → {self.mend}" if self.mend else "")


def check_versions(requirements: Iterable[str] | None = None) -> Iterator[Check]:
    """Whether every package that tkd_search needs is there in a version it accepts.

    Args:
        requirements: as in package metadata; default: those of the installed tkd_search.
    """
    wanted = importlib.metadata.requires("tkd_search") or [] if requirements is None else requirements
    found = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check("versions", "wrong", f"{requirement.name} is missing", "./setup.sh")
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            needs = f"{requirement.name} {version}, needed {requirement.specifier}"
            yield Check("versions", "wrong", needs, "./setup.sh")
    shown = ("ray", "torch", "optuna", "mlflow")
    yield Check("versions", "ok", ", ".join(f for f in found if f.split()[0] in shown) or "nothing to check")


def check_gpus(names: Sequence[str], torch_version: str, driver: bool) -> Check:
    """Whether the GPUs that the machine has are the GPUs that PyTorch sees.

    Args:
        names: GPUs that PyTorch sees.
        torch_version: PyTorch's version, ``+cpu`` at its end for the build without CUDA.
        driver: whether NVIDIA's driver lists a GPU.
    """
    if names:
        return Check("GPUs", "ok", f"{len(names)} × {names[0]}")
    if driver and torch_version.endswith("+cpu"):
        return Check("GPUs", "mind", "a GPU, but PyTorch's CPU build", "pip install torch from PyPI (CUDA)")
    if driver:
        return Check("GPUs", "mind", "a GPU that PyTorch does not see", "update NVIDIA's driver: nvidia-smi")
    return Check("GPUs", "ok", "none; trains on the CPU")


def driver_lists_gpu() -> bool:
    """Whether NVIDIA's driver is there and lists a GPU."""
    return shutil.which("nvidia-smi") is not None and any(Path("/proc/driver/nvidia/gpus").glob("*"))


def check_token(environment: Mapping[str, str], address: str) -> Check:
    """Whether the token that a cluster wants is here.

    Args:
        environment: environment variables.
        address: the Ray address a run would use; ``local`` for a Ray of its own.
    """
    if address == "local":
        return Check("Ray", "ok", "own Ray on this machine (--address local)")
    if environment.get("RAY_AUTH_MODE", "token").lower() == "disabled":
        return Check(
            "Ray", "mind", "authentication is switched off", "unset RAY_AUTH_MODE: anyone may run code"
        )
    if not local_token():
        return Check("Ray", "wrong", "no token", "ray get-auth-token --generate; `ray up` copies it")
    return Check("Ray", "ok", f"{address}, with a token")


def check_storage(storage: str) -> Check:
    """Whether this machine can write to the storage."""
    error = write_error(storage)
    if error:
        return Check("storage", "wrong", f"{storage}: {error}", "check the address and this machine's rights")
    return Check("storage", "ok", f"{storage} can be written")


def check_tracking(uri: str, environment: Mapping[str, str]) -> Check:
    """Whether the tracking store answers: an MLflow server's API, or the folder of a sqlite file."""
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).absolute().parent
        if os.access(folder, os.W_OK):
            return Check("tracking", "ok", uri)
        return Check("tracking", "wrong", f"{folder} cannot be written", "--set tracking.uri=… elsewhere")
    if not uri.startswith(("http://", "https://")):
        return Check("tracking", "ok", uri or "none")
    code, words = _ask(uri, environment)
    shown = (
        uri if "@" not in uri else uri.replace(urlsplit(uri).netloc, urlsplit(uri).netloc.rsplit("@", 1)[1])
    )
    mends = {
        401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        403: "the server refuses this host name or user: --allowed-hosts of mlflow server",
        0: "start it, or leave it: results are kept and written when it is back",
    }
    if code == 200:
        return Check("tracking", "ok", f"{shown} answers")
    state: State = "mind" if code == 0 else "wrong"
    return Check("tracking", state, f"{shown}: {words}", mends.get(code, "look at the server's log"))


def _ask(uri: str, environment: Mapping[str, str]) -> tuple[int, str]:
    parts = urlsplit(uri)
    user = parts.username or environment.get("MLFLOW_TRACKING_USERNAME", "")
    password = parts.password or environment.get("MLFLOW_TRACKING_PASSWORD", "")
    base = f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path.rstrip('/')}"
    request = urllib.request.Request(f"{base}/api/2.0/mlflow/experiments/search?max_results=1")
    if user:
        secret = b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status), "answers"
    except urllib.error.HTTPError as error:
        return error.code, f"{error.code} {error.reason}"
    except OSError as error:
        return 0, f"no answer ({getattr(error, 'reason', error)})"


def check_room(folder: Path, shared_memory: int, need: int) -> Iterator[Check]:
    """Whether disk and object store have room.

    Args:
        folder: where runs are written.
        shared_memory: bytes of the object store.
        need: bytes of the bank; 0 where it is not known.
    """
    disk, least = disk_free(folder), max(LEAST_DISK, 3 * need)
    text = f"{disk / 1e9:.1f} GB free for {folder}"
    full = disk < least
    mend = f"free some, or --output elsewhere: {least / 1e9:.0f} GB wanted"
    yield Check("disk", "wrong" if full else "ok", text, mend if full else "")
    least = max(LEAST_SHARED_MEMORY, need)
    small = shared_memory < least
    mend = f"enlarge /dev/shm to {least / 1e9:.1f} GB; without it Ray uses the disk, slowly"
    yield Check(
        "object store", "mind" if small else "ok", f"{shared_memory / 1e9:.1f} GB", mend if small else ""
    )


def check_nodes(reports: Sequence[NodeReport], storage: str) -> Iterator[Check]:
    """What the nodes of a cluster said, and whether they agree."""
    for report in reports:
        gpus = f"{len(report.gpus)} × {report.gpus[0]}" if report.gpus else "no GPU"
        text = f"{report.host}: {gpus}, {report.disk_free / 1e9:.0f} GB free, Python {report.python}"
        if storage and report.storage_error:
            mend = "give its machine the right to write there, or mount it"
            yield Check("node", "wrong", f"{text}; {storage}: {report.storage_error}", mend)
        elif report.disk_free < LEAST_DISK:
            yield Check("node", "mind", text, f"free some: {LEAST_DISK / 1e9:.0f} GB wanted")
        else:
            yield Check("node", "ok", text + (f", writes {storage}" if storage else ""))
    for name, versions in (
        ("Python", {".".join(r.python.split(".")[:2]) for r in reports}),
        ("PyTorch", {r.torch.split("+")[0] for r in reports}),
    ):
        if len(versions) > 1:
            found = f"{name} differs between nodes: {', '.join(sorted(versions))}"
            yield Check("node", "wrong", found, "ray up again: bootstrap.sh installs the pinned environment")
