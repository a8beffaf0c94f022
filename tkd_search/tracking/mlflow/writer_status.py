"""What the writer process says of itself, in a file beside the spool."""

import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tkd_search.files import write_json
from tkd_search.results.json_values import from_plain, to_plain
from tkd_search.tracking.uri import StoreIds

IDENTITY_FILE = "identity.json"
STATUS_FILE = "writer.json"
RUNS_FILE = "runs.json"
REFUSED_FILE = "refused.jsonl"


@dataclass(frozen=True, kw_only=True)
class WriterStatus:
    """One writer's state.

    ``error`` is why the store does not take events right now ('' when it does); ``refused`` counts
    entries it will never take (kept in ``refused.jsonl``); ``target`` names the store.
    """

    target: str = ""
    ids: StoreIds = field(default_factory=StoreIds)
    error: str = ""
    refused: int = 0
    pid: int = 0


def identify(folder: Path, target: str) -> str:
    """The search's identity, made up at its first start; notes the store it is to be written to.

    It is what its runs in the store are found by, so a new folder is a new search whatever its name.
    """
    known = _identity(folder)
    if known.get("target") != target:
        known = {"search_id": known.get("search_id") or uuid.uuid4().hex, "target": target}
        write_json(folder / IDENTITY_FILE, known, durable=True)
    return known["search_id"]


def read_target(folder: Path) -> str:
    """The store (its URI without login) that a spool is meant for; '' where there is none."""
    return _identity(folder).get("target", "")


def _identity(folder: Path) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in json.loads((folder / IDENTITY_FILE).read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def read_status(folder: Path) -> WriterStatus:
    """The writer's last word; an empty status where there is none."""
    try:
        return from_plain(WriterStatus, json.loads((folder / STATUS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return WriterStatus()


def write_status(folder: Path, status: WriterStatus) -> None:
    """Replace the status atomically."""
    write_json(folder / STATUS_FILE, {**to_plain(status), "pid": os.getpid()})


def read_runs(folder: Path) -> dict[str, dict[str, str]]:
    """Parent run → trial identifier → MLflow run, as far as the writer has met them."""
    try:
        plain = json.loads((folder / RUNS_FILE).read_text())
        return {parent: dict(runs) for parent, runs in plain.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def note_runs(folder: Path, parent: str, runs: dict[str, str]) -> None:
    """Add to what :func:`read_runs` knows; the report's links need it."""
    known = read_runs(folder)
    merged = {**known.get(parent, {}), **runs}
    if merged != known.get(parent):
        write_json(folder / RUNS_FILE, {**known, parent: merged})
