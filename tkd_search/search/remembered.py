"""Opening a storage: the study in it, what it remembers, and the trials of earlier studies."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from tkd_search.search.rungs import RungRecord
from tkd_search.search.space import Space
from tkd_search.search.storage import open_storage
from tkd_search.search.trials import StudyTrial, from_optuna

_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]


def earlier_trials(storage: str | Path | BaseStorage, name: str | None = None) -> tuple[StudyTrial, ...]:
    """The trials of an earlier study, to learn from.

    They should come from the same data set and big model: their accuracies are taken at face value.

    Args:
        storage: path of a journal file, an Optuna URL, or an open storage.
        name: name of the study; None where the storage holds just one.

    Raises:
        ValueError: no such study, or several and no name.
    """
    is_file = not isinstance(storage, BaseStorage) and "://" not in str(storage)
    if is_file and not Path(str(storage)).is_file():
        raise ValueError(f"no study storage {storage}")
    opened = storage if isinstance(storage, BaseStorage) else open_storage(storage, mend=False)
    names = [study.study_name for study in opened.get_all_studies()]
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise ValueError(f"no study {name!r} in {storage}; there: {', '.join(names) or 'none'}")
    study_id = opened.get_study_id_from_name(name)
    return tuple(map(from_optuna, opened.get_all_trials(study_id, deepcopy=False)))


def create_or_load(storage: BaseStorage, name: str) -> int:
    """The id of the study of that name, with our two objectives; made where it does not exist."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search has its own voice
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=storage, study_name=name, directions=_DIRECTIONS, load_if_exists=True
        )
        if study.metric_names is None:
            study.set_metric_names(["bytes", "val_accuracy"])
    return storage.get_study_id_from_name(name)


def check_enqueued(enqueue: Sequence[Mapping[str, Any]], space: Space) -> None:
    """Raise ValueError where an enqueued value does not belong to the space."""
    for i, config in enumerate(enqueue):
        for leaf, value in config.items():
            if leaf not in space.leaves or not space.leaves[leaf].contains(value):
                allowed = space.leaves[leaf] if leaf in space.leaves else f"one of {', '.join(space.leaves)}"
                raise ValueError(f"enqueue.{i}.{leaf} = {value!r}; allowed: {allowed}")


def renumbered(earlier: Sequence[StudyTrial], space: Space) -> tuple[StudyTrial, ...]:
    """Earlier trials that this space contains, numbered … −2, −1 so that they come before its own."""
    fitting = [t for t in earlier if t.state in ("complete", "stopped") and space.contains(t.config)]
    return tuple(dataclasses.replace(t, number=i - len(fitting)) for i, t in enumerate(fitting))


def rungs_of(trials: Iterable[StudyTrial]) -> dict[int, list[RungRecord]]:
    """The records at each rung, in order of arrival."""
    arrived = sorted(
        (position, epoch, trial) for trial in trials for epoch, position in trial.arrivals.items()
    )
    rungs: dict[int, list[RungRecord]] = {}
    for _, epoch, trial in arrived:
        record = trial.record_at(epoch)
        if record is not None:
            rungs.setdefault(epoch, []).append(record)
    return rungs
