"""Checks of ``doctor``, each with a suggested fix."""

import importlib.metadata
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
from tkd_search.errors import UserError
from tkd_search.files import not_writable
from tkd_search.masking import masked
from tkd_search.storage.object_store import write_error
from tkd_search.tracking.uri import check_uri

State = Literal["ok", "warn", "wrong"]
LINE_STARTS = ("ok ", "warn ", "WRONG")
"""First word of every line that ``Check.line`` returns."""
MIN_DISK, MIN_SHARED_MEMORY = 5 * 10**9, 10**9
"""Bytes that a search needs at least, whatever the size of its bank."""


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: subject of the check.
        state: ``ok``; ``warn`` for a problem that a search survives; ``wrong`` for one that prevents it.
        found: what was found.
        fix: what to do; '' if nothing has to be done.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    def line(self) -> str:
        """Return the result as one line of text, secrets masked."""
        sign = {"ok": "ok   ", "warn": "warn ", "wrong": "WRONG"}[self.state]
        return masked(f"{sign}  {self.name:<12} {self.found}" + (f"  → {self.fix}" if self.fix else ""))


def check_versions(requirements: Iterable[str] | None = None) -> Iterator[Check]:
    """Check that every required package is installed in an accepted version.

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
    """Check that PyTorch finds the machine's GPUs.

    Args:
        names: GPUs that PyTorch finds.
        torch_version: version of PyTorch, with the suffix ``+cpu`` for the build without CUDA.
        driver: whether NVIDIA's driver lists a GPU.
    """
    if names:
        return Check("GPUs", "ok", f"{len(names)} × {names[0]}")
    if driver and torch_version.endswith("+cpu"):
        return Check("GPUs", "warn", "a GPU, but PyTorch's CPU build", "pip install torch from PyPI (CUDA)")
    if driver:
        fix = "update NVIDIA's driver; nvidia-smi shows its version"
        return Check("GPUs", "warn", "a GPU that PyTorch does not find", fix)
    return Check("GPUs", "ok", "none; training uses the CPU")


def driver_lists_gpu() -> bool:
    """Return whether NVIDIA's driver is installed and lists a GPU."""
    return shutil.which("nvidia-smi") is not None and any(Path("/proc/driver/nvidia/gpus").glob("*"))


def check_token(environment: Mapping[str, str], address: str) -> Check:
    """Check that this machine has the token that a cluster requires.

    Args:
        environment: environment variables.
        address: Ray address of the run; ``local`` starts Ray on this machine and needs no token.
    """
    if address == "local":
        return Check("Ray", "ok", "starts on this machine (--address local)")
    if environment.get("RAY_AUTH_MODE", "token").lower() == "disabled":
        fix = "unset RAY_AUTH_MODE; with it, everyone on the network can run code"
        return Check("Ray", "warn", "authentication is disabled", fix)
    if not local_token():
        return Check("Ray", "wrong", "no token", "ray get-auth-token --generate; `ray up` copies it")
    return Check("Ray", "ok", f"{address}, with a token")


def check_storage(storage: str) -> Check:
    """Check that this machine can write to the storage."""
    error = write_error(storage)
    if error:
        return Check("storage", "wrong", f"{storage}: {error}", "check the address and this machine's rights")
    return Check("storage", "ok", f"{storage} can be written")


def check_tracking(uri: str, environment: Mapping[str, str]) -> Check:
    """Check that MLflow takes the URI, that a server answers, or that a sqlite file's folder is writable."""
    try:
        check_uri(uri)
    except UserError as error:
        return Check("tracking", "wrong", error.found, error.hint)
    if not uri.startswith(("http://", "https://")):
        return Check("tracking", "ok", uri or "none")
    code, answer = _request(uri, environment)
    fixes = {
        401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        403: "the server refuses this host name or user: --allowed-hosts of mlflow server",
        0: "start the server; until it answers, a search keeps its results and writes them later",
    }
    if code == 200:
        return Check("tracking", "ok", f"{uri} answers")
    state: State = "warn" if code == 0 else "wrong"
    return Check("tracking", state, f"{uri}: {answer}", fixes.get(code, "read the server's log"))


def _request(uri: str, environment: Mapping[str, str]) -> tuple[int, str]:
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
    """Check that the folder can be written, and that disk and object store are large enough.

    Args:
        folder: folder of the runs.
        shared_memory: bytes of the object store.
        need: bytes of the bank; 0 if unknown.
    """
    if problem := not_writable(folder / "run"):
        yield Check("output", "wrong", problem, "choose another folder with --output")
    disk, required = disk_free(folder), max(MIN_DISK, 3 * need)
    text = f"{disk / 1e9:.1f} GB free for {folder}"
    full = disk < required
    fix = f"free at least {required / 1e9:.0f} GB, or choose another folder with --output"
    yield Check("disk", "wrong" if full else "ok", text, fix if full else "")
    required = max(MIN_SHARED_MEMORY, need)
    small = shared_memory < required
    fix = f"enlarge /dev/shm to {required / 1e9:.1f} GB; otherwise Ray uses the disk, which is slow"
    yield Check(
        "object store", "warn" if small else "ok", f"{shared_memory / 1e9:.1f} GB", fix if small else ""
    )


def check_nodes(reports: Sequence[NodeReport], storage: str) -> Iterator[Check]:
    """Check each node of a cluster, and that all have the same versions of Python and PyTorch."""
    for report in reports:
        gpus = f"{len(report.gpus)} × {report.gpus[0]}" if report.gpus else "no GPU"
        text = f"{report.host}: {gpus}, {report.disk_free / 1e9:.0f} GB free, Python {report.python}"
        if storage and report.storage_error:
            fix = "grant its machine write access, or mount the folder there"
            yield Check("node", "wrong", f"{text}; {storage}: {report.storage_error}", fix)
        elif report.disk_free < MIN_DISK:
            yield Check("node", "warn", text, f"free at least {MIN_DISK / 1e9:.0f} GB")
        else:
            yield Check("node", "ok", text + (f", writes {storage}" if storage else ""))
    for name, versions in (
        ("Python", {".".join(r.python.split(".")[:2]) for r in reports}),
        ("PyTorch", {r.torch.split("+")[0] for r in reports}),
    ):
        if len(versions) > 1:
            found = f"{name} differs between nodes: {', '.join(sorted(versions))}"
            yield Check("node", "wrong", found, "run `ray up` again, which installs the pinned environment")
