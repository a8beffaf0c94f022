"""Opening a study, and reading the trials of earlier studies."""

import dataclasses
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from tkd_search.optimize.pruners.base import RungRecord
from tkd_search.optimize.space import Space
from tkd_search.optimize.study_storage import open_storage
from tkd_search.optimize.study_trial import StudyTrial, from_optuna

_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
_FIRST_RECORD_BYTES = 100_000
"""Upper limit of the bytes of a journal's first record, which creates the study."""


def earlier_trials(
    storage: str | Path | BaseStorage, name: str | None = None, *, unit: str = "bytes"
) -> tuple[StudyTrial, ...]:
    """Return the trials of an earlier study, for the sampler.

    They should come from the same data set and big model: their accuracies are compared with this study's.

    Args:
        storage: path of a journal file, an Optuna URL, or an open storage.
        name: name of the study; None where the storage holds exactly one.
        unit: of the cost that this search minimises.

    Raises:
        ValueError: no such storage or study, several and no name, or a study of costs in another unit.
    """
    try:
        if isinstance(storage, BaseStorage):
            return _trials_of(storage, name, unit)
        _check_is_storage(str(storage))
        return _trials_of(open_storage(storage, repair=False), name, unit)
    except Exception as error:  # every database has errors of its own, and a missing driver is an ImportError
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"no study storage {storage}: {kind}{first_line}") from error


def _trials_of(storage: BaseStorage, name: str | None, unit: str) -> tuple[StudyTrial, ...]:
    names = [study.study_name for study in storage.get_all_studies()]
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        problem = f"no study {name!r}" if name else "no name of a study given"
        raise ValueError(f"{problem}; studies: {', '.join(names) or 'none'}")
    study_id = storage.get_study_id_from_name(name)
    own = (_metric_names(storage, name) or ["bytes"])[0]
    if own != unit:
        raise ValueError(f"study {name!r} minimises {own}; this search minimises {unit}")
    return tuple(map(from_optuna, storage.get_all_trials(study_id, deepcopy=False)))


def _metric_names(storage: BaseStorage, name: str) -> list[str] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.load_study(study_name=name, storage=storage).metric_names


def _check_is_storage(storage: str) -> None:
    """Raise ValueError where no study can be, because opening an SQLite file would create it."""
    address, is_url, path = storage.partition("://")
    if is_url and (not address.startswith("sqlite") or "?" in path):
        return
    file = Path(path.removeprefix("/") if is_url else storage)
    if not file.is_file():
        raise ValueError("no such file")
    if not is_url and not _is_journal(file):
        raise ValueError("the file is not the journal of a study")


def _is_journal(file: Path) -> bool:
    """Return whether a file begins with a record of Optuna's journal, or is empty."""
    with open(file, "rb") as content:
        start = content.readline(_FIRST_RECORD_BYTES)
    try:
        first = json.loads(start or b'{"op_code": 0}')
    except ValueError:
        return False
    return isinstance(first, dict) and "op_code" in first


def create_or_load(storage: BaseStorage, name: str, unit: str) -> int:
    """Return the id of the study of that name with two objectives; it is created where it does not exist.

    ``unit`` is that of the cost, the first objective.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search reports its progress itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=storage, study_name=name, directions=_DIRECTIONS, load_if_exists=True
        )
        if study.metric_names is None:
            study.set_metric_names([unit, "val_accuracy"])
    return storage.get_study_id_from_name(name)


def study_name(journal: Path, name: str) -> str:
    """Return the name of the one study in a run's journal, or ``name`` where there is none yet.

    They differ where the run was renamed; a study of the new name would start at its first trial again.
    """
    held = open_storage(journal).get_all_studies() if journal.exists() else []
    return held[0].study_name if len(held) == 1 else name


def check_enqueued(enqueue: Sequence[Mapping[str, Any]], space: Space) -> None:
    """Raise ValueError where an enqueued value does not belong to the space."""
    for i, config in enumerate(enqueue):
        for leaf, value in config.items():
            if leaf not in space.leaves or not space.leaves[leaf].contains(value):
                allowed = space.leaves[leaf] if leaf in space.leaves else f"one of {', '.join(space.leaves)}"
                raise ValueError(f"enqueue.{i}.{leaf} = {value!r}; allowed: {allowed}")


def renumber(earlier: Sequence[StudyTrial], space: Space) -> tuple[StudyTrial, ...]:
    """Return the earlier trials within this space, with numbers … −2, −1, which come before its own.

    Untrained and failed trials are left out: a student above an earlier search's limit may be within this
    search's.
    """
    fitting = [
        t for t in earlier if t.state in ("complete", "stopped") and t.curve and space.contains(t.config)
    ]
    return tuple(dataclasses.replace(t, number=i - len(fitting)) for i, t in enumerate(fitting))


def rungs_of(trials: Iterable[StudyTrial]) -> dict[int, list[RungRecord]]:
    """Return the records at each rung, in order of arrival."""
    arrived = sorted(
        (position, epoch, trial) for trial in trials for epoch, position in trial.arrivals.items()
    )
    rungs: dict[int, list[RungRecord]] = {}
    for _, epoch, trial in arrived:
        record = trial.record_at(epoch)
        if record is not None:
            rungs.setdefault(epoch, []).append(record)
    return rungs
