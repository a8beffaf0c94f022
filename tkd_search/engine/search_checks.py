"""What no single setting can tell, checked before anything is written."""

from collections.abc import Sequence
from typing import Any

import torch

from tkd_search.config.experiment_file import Config
from tkd_search.config.pruner import configured_pruner
from tkd_search.config.search_settings import SearchSettings
from tkd_search.data import DataBundle
from tkd_search.distill.features.taps import find_taps
from tkd_search.errors import UserError
from tkd_search.models import build_big_model, build_student
from tkd_search.models.families import family_of
from tkd_search.models.model_settings import StudentSettings
from tkd_search.optimize.learning_curves import LEARNING
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.rehearsal import rehearse
from tkd_search.optimize.samplers.create_sampler import DESIGNS, SAMPLERS
from tkd_search.optimize.space import Choice
from tkd_search.optimize.student_bytes import STUDENT
from tkd_search.optimize.study import earlier_trials
from tkd_search.optimize.study_trial import StudyTrial

_AT_PLACES = ("method.local", "method.local_feature", "method.stage_feature")


def check_search(config: Config, data: DataBundle) -> int:
    """Everything that a search would else find out after the big model is trained.

    Returns:
        Number of taps over all big models.

    Raises:
        UserError: what does not fit.
    """
    configured_pruner(config, data.num_classes)
    _check_sampler(config)
    warm_start(config)
    sample_students(config, data)
    _check_knobs(config)
    return check_candidates(config, data)


def sample_students(config: Config, data: DataBundle) -> list[StudentSettings]:
    """A student for every option of every choice that decides the student; one where there is no choice.

    In the middle of the other leaves where that can be built, else at an end: some sizes may fail, and their
    trials alone then do.

    Raises:
        UserError: an option (or any student, by an argument that it does not take) can be built nowhere.
    """
    space = config.space
    given = [
        {leaf: option}
        for leaf, distribution in space.leaves.items()
        if leaf.startswith(STUDENT) and isinstance(distribution, Choice)
        for option in distribution.options
    ]
    names = space.leaves.get("student.name")
    others = [{"student.name": name} for name in names.options] if isinstance(names, Choice) else [{}]
    return [
        _first_that_builds(
            [
                config.settings(space.at([share] * len(space.leaves), {**other, **option})).student
                for other in others
                for share in (0.5, 0.0, 1.0)
            ],
            data,
        )
        for option in given or [{}]
    ]


def _first_that_builds(students: Sequence[StudentSettings], data: DataBundle) -> StudentSettings:
    problems = []
    for student in students:
        try:
            build_student(student, classes=data.num_classes, channels=data.channels, size=data.size)
            return student
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _check_knobs(config: Config) -> None:
    """Refuse a size that the student does not have: a search over it would try the same one every time."""
    student, searched = config.settings().student, config.space.leaves
    name = student.name
    family = family_of(name)  # of a function at an import path: one without width and depth
    for knob, varies in (("width", family.width), ("depth", family.depth)):
        value, default = getattr(student, knob), getattr(StudentSettings(), knob)
        wished = ":" not in name and value != default
        known = f"student.{knob}" in searched
        if (known or wished) and "student.name" not in searched and not varies:
            raise UserError(
                f"student.{knob}",
                "a distribution" if known else str(value),
                f"nothing: {name} has no {knob} here",
                f"--set student.{knob}={default}; sizes then come from student.args, or several student.name",
            )


def proposer_settings(search: SearchSettings) -> ProposerSettings:
    """How configurations are proposed.

    Raises:
        ValueError: unknown way of learning.
    """
    return ProposerSettings(
        sampler=search.sampler,
        startup=search.startup_trials,
        options=search.sampler_args,
        learning=search.learning,
    )


def _check_sampler(config: Config) -> None:
    search = config.settings().search
    try:
        rehearse(
            proposer_settings(search),
            config.space,
            full_budget=config.settings().training.epochs,
            seed=config.settings().seed,
        )
    except Exception as error:  # a sampler may refuse this space or two objectives with any
        raise UserError(
            "search.learning" if search.learning not in LEARNING else "search.sampler",
            f"{search.sampler!r} with search.sampler_args {search.sampler_args}, "
            f"search.learning {search.learning!r} ({str(error) or type(error).__name__})",
            f"{', '.join(['ehvi', *SAMPLERS, *DESIGNS])} or package.module:Class that takes two objectives "
            f"and this space, and arguments that it has; learning: {', '.join(LEARNING)}",
            "another sampler has other arguments: --set search.sampler_args={} takes its defaults",
        ) from error


def warm_start(config: Config) -> tuple[StudyTrial, ...]:
    """The trials of the earlier searches that the configuration names.

    Raises:
        UserError: one of them is not there.
    """
    trials: list[StudyTrial] = []
    for name in config.settings().search.warm_start:
        journal = config.folder.absolute().parent / name / "study.journal"
        try:
            trials.extend(earlier_trials(journal if journal.exists() else name))
        except (ValueError, OSError) as error:
            raise UserError(
                "search.warm_start", f"{name!r} ({error})", "names of earlier runs, or their study storages"
            ) from error
    return tuple(trials)


def check_candidates(config: Config, data: DataBundle) -> int:
    """Number of taps over all big models; refuses a fixed K above taps × masks, and terms without cells.

    Raises:
        UserError: ``method.k`` is fixed and larger than the number of candidates, no tap matches, or a term
            asks for cells that the bank does not hold.
    """
    settings = config.settings()
    taps, maps = 0, 0
    example = torch.zeros(2, data.channels, data.size, data.size)
    for model_settings in settings.big_models:
        model = build_big_model(
            model_settings, classes=data.num_classes, channels=data.channels, size=data.size
        )
        found = find_taps(model.model, settings.bank.taps, example)
        taps, maps = taps + len(found), maps + sum(tap.spatial for tap in found)
    _check_cells(config, maps)
    fixed = "method.k" not in config.space.leaves and "method.masks" not in config.space.leaves
    most = taps * settings.method.masks
    if fixed and settings.method.name == "tkd" and settings.method.k > most:
        raise UserError(
            "method.k",
            str(settings.method.k),
            f"1 to {most}: {taps} taps × {settings.method.masks} masks",
            "lower method.k, raise method.masks, or name more bank.taps",
        )
    return taps


def _check_cells(config: Config, maps: int) -> None:
    """Terms at places need a bank that holds cells of taps with maps."""
    methods = _possible(config, "method.name")
    asking = [key for key in _AT_PLACES if "tkd" in methods and max(_possible(config, key)) > 0]
    if "at" in methods and not maps:
        raise UserError("method.name", "at", "another method: no tap of the big model has a map")
    asking += ["method.name = at"] if "at" in methods else []
    if asking and maps and config.settings().bank.grid == 0:
        raise UserError(
            "bank.grid",
            f"0, beside {', '.join(asking)}",
            "above 0: these compare cells of maps",
            "--set bank.grid=4",
        )


def _possible(config: Config, key: str) -> tuple[Any, ...]:
    """The values that a leaf may take; of a range its ends."""
    leaf = config.space.leaves.get(key)
    if leaf is None:
        section, _, name = key.partition(".")
        return (config.tree[section][name],)
    return leaf.options if isinstance(leaf, Choice) else (leaf.low, leaf.high)
