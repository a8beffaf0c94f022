"""``summary.json``, the stable file for other tools, and ``record.json``, the whole record of a search.

The summary has exactly the keys of schema 1 (:class:`Summary`), documented in docs/files.md; another key
would be schema 2. ``record.json`` is the whole SearchRecord, for this package alone.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from tkd_search.errors import UserError
from tkd_search.files import write_json
from tkd_search.results.costs import Costed
from tkd_search.results.json_values import finite, from_plain, to_plain
from tkd_search.results.records import SearchRecord, TrialRecord, by_cost

SCHEMA = 1
SUMMARY_FILE = "summary.json"
RECORD_FILE = "record.json"
_RERUN = "delete record.json and start the search's command again: it writes both files anew"


class BigModelSummary(TypedDict):
    """The big model's figures; null where a figure is no finite number."""

    name: str
    bytes: int
    parameters: int
    val_accuracy: float | None
    test_accuracy: float | None


class TrialsSummary(TypedDict):
    """Number of trials by how they ended.

    ``not_trained`` is the number of those among ``stopped_early`` that a limit of the search kept from being
    trained; the key is missing where there are none. The ``reason`` of each is in ``record.json``.
    """

    total: int
    completed: int
    stopped_early: int
    failed: int
    not_trained: NotRequired[int]


class EpochsSummary(TypedDict):
    """Epochs trained by all trials together, and by one trial that is not stopped."""

    spent: int
    full_budget: int


class MlflowSummary(TypedDict):
    """Where MLflow has the search; empty text without MLflow."""

    tracking_uri: str
    experiment_id: str
    parent_run_id: str


class MemberSummary(TypedDict):
    """One student of the front; see :class:`tkd_search.results.records.FrontMember`."""

    trial_id: str
    student: str
    bytes: int
    parameters: int
    ratio: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    retention: float | None
    config: dict[str, Any]
    path: str
    cost: NotRequired[float]


class ReferenceSummary(TypedDict):
    """The big model in a number format; see :class:`tkd_search.results.records.Reference`."""

    format: str
    bytes: int
    ratio: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    cost: NotRequired[float]


class Summary(TypedDict):
    """Schema 1 of ``summary.json``; the fields are those of SearchRecord."""

    schema: int
    name: str
    dataset: str
    seed: int
    status: str
    big_model: BigModelSummary
    trials: TrialsSummary
    epochs: EpochsSummary
    hypervolume: float | None
    reference_point: list[Any]
    wall_seconds: float | None
    mlflow: MlflowSummary
    front: list[MemberSummary]
    references: NotRequired[list[ReferenceSummary]]
    metric: NotRequired[str]
    cost: NotRequired[str]


def summarise(record: SearchRecord) -> dict[str, Any]:
    """Return the summary of a search: the front sorted by cost, null where a number is not finite."""
    states = [trial.state for trial in record.trials]
    not_trained = sum(trial.not_trained for trial in record.trials)
    front = by_cost(record.front)
    summary = {
        "schema": SCHEMA,
        "name": record.name,
        "dataset": record.dataset,
        "seed": record.seed,
        "status": record.status,
        "big_model": _plain(record.big_model, BigModelSummary),
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
        "front": [_plain(member, MemberSummary) for member in front],
        "metric": record.metric,
        "references": [_plain(one, ReferenceSummary) for one in record.big_model.references],
        "cost": record.cost,
    }
    plain: dict[str, Any] = finite(summary)
    return plain


def epochs_spent(trials: tuple[TrialRecord, ...]) -> int:
    """Return the number of epochs that all trials together have trained."""
    return sum(trial.epochs_trained for trial in trials)


def _plain(figures: Costed, kind: type) -> dict[str, Any]:
    plain = {**to_plain(figures), "cost": figures.cost}
    return {key: plain[key] for key in kind.__annotations__}


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
    """Mark a complete search as interrupted: it is being extended and not complete until it ends again."""
    if (folder / RECORD_FILE).exists():
        record = read_record(folder)
        if record.status == "complete":
            write_summary(replace(record, status="interrupted"), folder)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the checked summary from a run's folder, or from the file itself.

    Raises:
        UserError: it is missing, no JSON, of another schema, or a key is missing or of the wrong type.
    """
    path = folder if folder.is_file() else folder / SUMMARY_FILE
    plain = _load(path)
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        found = plain.get("schema") if isinstance(plain, dict) else type(plain).__name__
        raise UserError(f"{path}: schema", repr(found), str(SCHEMA), "update tkd_search, or search again")
    try:
        from_plain(Summary, plain, strict=True)
    except ValueError as error:
        raise UserError(str(path), f"a damaged summary ({error})", "the keys of schema 1", _RERUN) from error
    return plain


def read_record(folder: Path) -> SearchRecord:
    """Return the whole record of a search from its folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / RECORD_FILE
    try:
        return from_plain(SearchRecord, _load(path))
    except ValueError as error:
        raise UserError(
            str(path), f"no search record ({error})", "record.json of a search", _RERUN
        ) from error


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "`python -m tkd_search runs list` lists the searches"
        raise UserError(str(path), "no such file", "the folder of a search, runs/<name>", hint) from None
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"a file that cannot be read ({error})", "JSON") from error
