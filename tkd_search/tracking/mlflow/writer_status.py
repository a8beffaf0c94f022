"""The writer's state in ``<run>/mlflow``: identity, acknowledged offset, status and run identifiers."""

import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tkd_search.files import write_json
from tkd_search.results.json_values import from_plain, to_plain
from tkd_search.tracking.uri import StoreIds

STATE_FOLDER = "mlflow"
IDENTITY_FILE = "identity.json"
ACKNOWLEDGED_FILE = "acknowledged.json"
DELIVERED_FILE = "delivered.json"
STATUS_FILE = "writer.json"
RUNS_FILE = "runs.json"
REFUSED_FILE = "refused.jsonl"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a search is in its store.

    Attributes:
        search_id: the tag by which its runs are found again; a new folder is a new search whatever its name.
        target: the store's URI without its login; '' where the run is not tracked.
        experiment: name of the MLflow experiment; '' is ``tkd_search/<data set>``.
        system_metrics: whether the driver's machine is logged as well.
    """

    search_id: str = ""
    target: str = ""
    experiment: str = ""
    system_metrics: bool = False


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """How much of the event log the store ``target`` has: bytes ``offset``, last ``sequence`` (-1: none).

    ACKNOWLEDGED_FILE holds it for figures, DELIVERED_FILE for files.
    """

    target: str
    offset: int = 0
    sequence: int = -1


@dataclass(frozen=True, kw_only=True)
class WriterStatus:
    """One writer's state.

    Attributes:
        target: the store's URI without its login.
        ids: where the store keeps the search.
        error: why the store does not take events now; '' while it does.
        undelivered: why it does not take files now; '' while it does.
        refused: number of entries that it will never take (kept in ``refused.jsonl``).
        pid: the writer's process.
    """

    target: str = ""
    ids: StoreIds = field(default_factory=StoreIds)
    error: str = ""
    undelivered: str = ""
    refused: int = 0
    pid: int = 0


def identify(folder: Path, target: str, *, experiment: str = "", system_metrics: bool = False) -> Identity:
    """Return the search's identity, created at its first start, and note the store it is written to."""
    known = read_identity(folder)
    identity = Identity(
        search_id=known.search_id or uuid.uuid4().hex,
        target=target,
        experiment=experiment or known.experiment,
        system_metrics=system_metrics,
    )
    if identity != known:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / IDENTITY_FILE, asdict(identity), durable=True)
    return identity


def read_identity(folder: Path) -> Identity:
    """Return the search's identity, an empty one where there is none."""
    try:
        return from_plain(Identity, json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):
        return Identity()


def read_acknowledged(folder: Path, target: str, file: str = ACKNOWLEDGED_FILE) -> Acknowledged:
    """Return how much of the log ``target`` has; nothing where that is unknown or another store's."""
    try:
        plain = json.loads((folder / file).read_text(encoding="utf-8"))
        found = Acknowledged(
            target=plain["target"], offset=int(plain["offset"]), sequence=int(plain["sequence"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Acknowledged(target=target)
    return found if found.target == target else Acknowledged(target=target)


def write_acknowledged(folder: Path, acknowledged: Acknowledged, file: str = ACKNOWLEDGED_FILE) -> None:
    """Replace the acknowledged offset atomically."""
    write_json(folder / file, asdict(acknowledged))


def read_status(folder: Path) -> WriterStatus:
    """Return the writer's last status, an empty one where there is none."""
    try:
        return from_plain(WriterStatus, json.loads((folder / STATUS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return WriterStatus()


def write_status(folder: Path, status: WriterStatus) -> None:
    """Replace the status atomically."""
    write_json(folder / STATUS_FILE, {**to_plain(status), "pid": os.getpid()})


def read_runs(folder: Path) -> dict[str, dict[str, str]]:
    """Return parent run → trial identifier → MLflow run, as far as the writer has created them."""
    try:
        plain = json.loads((folder / RUNS_FILE).read_text(encoding="utf-8"))
        return {parent: dict(runs) for parent, runs in plain.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def note_runs(folder: Path, parent: str, runs: dict[str, str]) -> None:
    """Add to what :func:`read_runs` returns; the report's links need it."""
    known = read_runs(folder)
    merged = {**known.get(parent, {}), **runs}
    if merged != known.get(parent):
        write_json(folder / RUNS_FILE, {**known, parent: merged})
