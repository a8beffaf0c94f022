"""``summary.json``, the stable file that tools read, and ``record.json``, everything a report needs.

The summary has exactly the keys of schema 1, documented in the README; further ones would be schema 2. One
comes only where a limit of the search kept trials from being trained: ``trials.not_trained``, the number of
those among ``stopped_early`` (why is the ``reason`` of each trial in ``record.json``).
``record.json`` is the whole SearchRecord, for this package alone.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tkd_search.errors import UserError
from tkd_search.files import write_json
from tkd_search.results.json_values import finite, from_plain, to_plain
from tkd_search.results.records import FrontMember, SearchRecord, TrialRecord

SCHEMA = 1
SUMMARY_FILE = "summary.json"
RECORD_FILE = "record.json"
_NUMBER = (int, float, type(None))
_KEYS: dict[str, Any] = {
    "schema": int,
    "name": str,
    "dataset": str,
    "seed": int,
    "status": str,
    "big_model": {
        "name": str,
        "bytes": int,
        "parameters": int,
        "val_accuracy": _NUMBER,
        "test_accuracy": _NUMBER,
    },
    "trials": {"total": int, "completed": int, "stopped_early": int, "failed": int},
    "epochs": {"spent": int, "full_budget": int},
    "hypervolume": _NUMBER,
    "reference_point": list,
    "wall_seconds": _NUMBER,
    "mlflow": {"tracking_uri": str, "experiment_id": str, "parent_run_id": str},
    "front": list,
}
_MEMBER: dict[str, Any] = {
    "trial_id": str,
    "student": str,
    "bytes": int,
    "parameters": int,
    "ratio": _NUMBER,
    "val_accuracy": _NUMBER,
    "test_accuracy": _NUMBER,
    "retention": _NUMBER,
    "config": dict,
    "path": str,
}


def summarise(record: SearchRecord) -> dict[str, Any]:
    """The summary of a search: schema 1, the front sorted by size, what is no finite number as null."""
    states = [trial.state for trial in record.trials]
    not_trained = sum(trial.not_trained for trial in record.trials)
    front = sorted(record.front, key=lambda member: (member.bytes, member.trial_id))
    summary = {
        "schema": SCHEMA,
        "name": record.name,
        "dataset": record.dataset,
        "seed": record.seed,
        "status": record.status,
        "big_model": to_plain(record.big_model),
        "trials": {
            "total": len(states),
            "completed": states.count("complete"),
            "stopped_early": states.count("stopped"),
            "failed": states.count("failed"),
            **({"not_trained": not_trained} if not_trained else {}),
        },
        "epochs": {"spent": epochs_spent(record.trials), "full_budget": record.full_budget},
        "hypervolume": record.hypervolume,
        "reference_point": list(record.reference_point),
        "wall_seconds": record.wall_seconds,
        "mlflow": {
            "tracking_uri": record.tracking_uri,
            "experiment_id": record.experiment_id,
            "parent_run_id": record.parent_run_id,
        },
        "front": [_member(member) for member in front],
    }
    plain: dict[str, Any] = finite(summary)
    return plain


def epochs_spent(trials: tuple[TrialRecord, ...]) -> int:
    """Epochs that all trials together have trained."""
    return sum(trial.epochs_trained for trial in trials)


def _member(member: FrontMember) -> dict[str, Any]:
    plain = to_plain(member)
    return {key: plain[key] for key in _MEMBER}


def write_summary(record: SearchRecord, folder: Path) -> Path:
    """Write ``summary.json`` and ``record.json`` into ``folder``, each atomically and durably.

    Returns:
        The path of the summary, after it was read back and checked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD_FILE, to_plain(record), durable=True)
    write_json(folder / SUMMARY_FILE, summarise(record), durable=True, indent=2)
    read_summary(folder)
    return folder / SUMMARY_FILE


def reopen(folder: Path) -> None:
    """Mark a complete search as interrupted: it is extended, and is not complete until it ends again."""
    if (folder / RECORD_FILE).exists():
        record = read_record(folder)
        if record.status == "complete":
            write_summary(replace(record, status="interrupted"), folder)


def read_summary(folder: Path) -> dict[str, Any]:
    """The checked summary of a run's folder (or the file itself).

    Raises:
        UserError: it is missing, no JSON, of another schema, or a key is missing or of the wrong kind.
    """
    path = folder if folder.suffix == ".json" else folder / SUMMARY_FILE
    plain = _load(path)
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        found = plain.get("schema") if isinstance(plain, dict) else type(plain).__name__
        raise UserError(f"{path}: schema", repr(found), str(SCHEMA), "update tkd_search, or search again")
    _check(plain, _KEYS, str(path))
    for place, member in enumerate(plain["front"]):
        _check(member, _MEMBER, f"{path}: front[{place}]")
    return plain


def read_record(folder: Path) -> SearchRecord:
    """The whole record of a search from its folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / RECORD_FILE
    try:
        return from_plain(SearchRecord, _load(path))
    except ValueError as error:
        raise UserError(str(path), f"a file that is no search record ({error})", "record.json") from error


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "`python -m tkd_search runs list` shows which searches there are"
        raise UserError(str(path), "no such file", "the folder of a search, runs/<name>", hint) from None
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"a file that cannot be read ({error})", "JSON") from error


def _check(plain: Any, keys: dict[str, Any], where: str) -> None:
    if not isinstance(plain, dict):
        raise UserError(where, type(plain).__name__, "an object")
    for key, kind in keys.items():
        if key not in plain:
            raise UserError(f"{where}: {key}", "nothing", "schema 1 asks for this key")
        if isinstance(kind, dict):
            _check(plain[key], kind, f"{where}: {key}")
        elif not isinstance(plain[key], kind) or isinstance(plain[key], bool):
            raise UserError(f"{where}: {key}", repr(plain[key]), f"a value of kind {kind}")
