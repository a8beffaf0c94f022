"""Checks of a search that concern several settings, or settings and data, before anything is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tkd_search.config.experiment_file import Config
from tkd_search.config.pruner import configured_pruner
from tkd_search.config.search_settings import SearchSettings
from tkd_search.data import DataBundle
from tkd_search.distill.features.taps import find_taps
from tkd_search.distill.quantization.number_format import Format, rounds_weights
from tkd_search.distill.quantization.targets import unrounded
from tkd_search.errors import UserError
from tkd_search.export.format_support import check_formats
from tkd_search.models import Student, build_big_model, build_student, model_parameters
from tkd_search.models.families import family_of
from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings
from tkd_search.models.student_architecture import check_cut_settings
from tkd_search.optimize.check_sampler import check_sampler
from tkd_search.optimize.learning_curves import ACCURACY_ESTIMATORS
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import Pruner
from tkd_search.optimize.samplers.create_sampler import DESIGNS, SAMPLERS
from tkd_search.optimize.space import Choice
from tkd_search.optimize.student_bytes import STUDENT
from tkd_search.optimize.study import earlier_trials
from tkd_search.optimize.study_trial import StudyTrial

_SPATIAL_WEIGHTS = ("method.local", "method.local_feature", "method.stage_feature")
"""Weights of loss terms that compare cells of feature maps."""


@dataclass(frozen=True)
class CheckedSearch:
    """The results of the checks that the search itself needs.

    Attributes:
        taps: number of taps over all big models.
        pruner: the configured pruner.
        earlier: trials of the searches in ``search.warm_start``.
        students: one student for every option that decides the student.
        notes: lines for the user, those on the data first.
    """

    taps: int
    pruner: Pruner
    earlier: tuple[StudyTrial, ...]
    students: tuple[StudentSettings, ...]
    notes: tuple[str, ...]


def check_search(config: Config, data: DataBundle) -> CheckedSearch:
    """Check what would otherwise fail only after the big model is trained.

    Raises:
        UserError: the pruner, the sampler, an earlier search, a student, its format, taps or K do not fit.
    """
    check_formats(_possible(config, "student.format"))
    pruner = configured_pruner(config, data.num_classes)
    _check_sampler(config)
    earlier = _warm_start(config)
    _check_cut(config, data)
    rounding = [format for format in _possible(config, "student.format") if rounds_weights(format)]
    # One network at a time: a choice of names may hold several that are large.
    found = [
        (settings, _unrounded_note(settings.name, student, rounding))
        for settings, student in _sample_students(config, data)
    ]
    _check_sizes(config)
    taps = _check_candidates(config, data)
    notes = (*data.notes, *_notes(config, taps), *dict.fromkeys(note for _, note in found if note))
    return CheckedSearch(taps, pruner, earlier, tuple(settings for settings, _ in found), notes)


def _check_cut(config: Config, data: DataBundle) -> None:
    """Refuse students cut from a big model that cannot be cut."""
    if CUT in _possible(config, "student.name"):
        check_cut_settings(
            config.settings().big_models[0],
            _possible(config, "student.importance"),
            classes=data.num_classes,
            channels=data.channels,
            size=data.size,
        )


def _sample_students(config: Config, data: DataBundle) -> Iterator[tuple[StudentSettings, Student]]:
    """Yield a student for every option of every choice that decides the student; one without a choice.

    Each comes with its untrained network.

    The other leaves have their middle where that student can be built, else an end. Some sizes may fail; only
    their trials fail then.

    Raises:
        UserError: no student with an option can be built, or none at all (by an argument it does not take).
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
    for option in given or [{}]:
        yield _first_that_builds(
            [
                config.settings(space.at([share] * len(space.leaves), {**other, **option})).student
                for other in others
                for share in (0.5, 0.0, 1.0)
            ],
            data,
            config.settings().big_models[0],
        )


def _first_that_builds(
    students: Sequence[StudentSettings], data: DataBundle, big_model: BigModelSettings
) -> tuple[StudentSettings, Student]:
    problems = []
    build = partial(build_student, classes=data.num_classes, channels=data.channels, size=data.size)
    for student in students:
        try:
            return student, build(student, big_model=big_model)
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _check_sizes(config: Config) -> None:
    """Refuse a width or depth that the student does not have: every value would give the same student."""
    student, searched = config.settings().student, config.space.leaves
    name = student.name
    family = family_of(name)  # of a function at an import path: one without width and depth
    for field, varies in (("width", family.width), ("depth", family.depth)):
        value, default = getattr(student, field), getattr(StudentSettings(), field)
        is_set = ":" not in name and value != default
        is_searched = f"student.{field}" in searched
        if (is_searched or is_set) and "student.name" not in searched and not varies:
            raise UserError(
                f"student.{field}",
                "a distribution" if is_searched else str(value),
                f"the default, {default}: {name} has no {field}",
                f"--set student.{field}={default}; vary the size by student.args, or by several student.name",
            )


def proposer_settings(search: SearchSettings) -> ProposerSettings:
    """Return the settings of the sampler.

    Raises:
        ValueError: unknown ``search.learning``.
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
        check_sampler(
            proposer_settings(search),
            config.space,
            full_budget=config.settings().training.epochs,
            seed=config.settings().seed,
        )
    except Exception as error:  # a sampler may refuse this space or two objectives with any
        raise UserError(
            "search.learning" if search.learning not in ACCURACY_ESTIMATORS else "search.sampler",
            f"{search.sampler!r} with search.sampler_args {search.sampler_args}, "
            f"search.learning {search.learning!r} ({str(error) or type(error).__name__})",
            f"{', '.join(['ehvi', *SAMPLERS, *DESIGNS])} or package.module:Class that accepts two objectives "
            f"and this space, with its own arguments; learning: {', '.join(ACCURACY_ESTIMATORS)}",
            "another sampler has other arguments: --set search.sampler_args={} takes its defaults",
        ) from error


def _warm_start(config: Config) -> tuple[StudyTrial, ...]:
    """Return the trials of the searches in ``search.warm_start``.

    Raises:
        UserError: one of them does not exist.
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


def _check_candidates(config: Config, data: DataBundle) -> int:
    """Return the number of taps over all big models.

    Raises:
        UserError: every value of ``method.k`` is above the number of candidates, no tap matches, or a loss
            term needs cells that the bank does not hold.
    """
    settings = config.settings()
    taps, maps = 0, 0
    for model_settings in settings.big_models:
        model = build_big_model(
            model_settings,
            classes=data.num_classes,
            channels=data.channels,
            size=data.size,
            given=data.input,
        )
        found = find_taps(model.model, settings.bank.taps, torch.zeros(2, *model.input_shape))
        taps, maps = taps + len(found), maps + sum(tap.spatial for tap in found)
    _check_cells(config, maps)
    least, masks = min(_possible(config, "method.k")), max(_possible(config, "method.masks"))
    if "tkd" in _possible(config, "method.name") and least > taps * masks:
        raise UserError(
            "method.k",
            str(least) if "method.k" not in config.space.leaves else f"at least {least}",
            f"1 to {taps * masks}: {taps} taps × {masks} masks",
            "lower method.k, raise method.masks, or name more bank.taps",
        )
    return taps


def _notes(config: Config, taps: int) -> tuple[str, ...]:
    """Return a note where the search space has values of K above the number of candidates."""
    most, masks = max(_possible(config, "method.k")), max(_possible(config, "method.masks"))
    if "method.k" not in config.space.leaves or most <= taps * masks:
        return ()
    return (
        f"method.k is searched up to {most}; at most {taps * masks} candidates exist ({taps} taps × {masks} "
        "masks), and larger values are lowered to that",
    )


def _unrounded_note(name: str, student: Student, formats: Sequence[Format]) -> str:
    """Return a note where ``formats``, those that round, keep weights of a student in fp16; else ''."""
    held = unrounded(student.model, formats[0]) if formats else {}
    if not held:
        return ""
    share = sum(held.values()) / model_parameters(student.model)
    largest = sorted(held, key=lambda weight: -held[weight])[:3]
    more = f" and {len(held) - 3} more" if len(held) > 3 else ""
    return (
        f"{name}: {share:.1%} of the parameters stay in fp16 with student.format "
        f"{' and '.join(formats)}, which do not round {', '.join(largest)}{more}"
    )


def _check_cells(config: Config, maps: int) -> None:
    """Refuse loss terms that compare cells where the bank holds none; ``maps``: taps with feature maps."""
    methods = _possible(config, "method.name")
    users = [key for key in _SPATIAL_WEIGHTS if "tkd" in methods and max(_possible(config, key)) > 0]
    if "at" in methods and not maps:
        raise UserError("method.name", "at", "another method: no tap of the big model has a feature map")
    if users and not maps:
        raise UserError(
            users[0],
            "above 0, where no tap of the big model has a feature map or a grid of patch tokens",
            "0, or a big model with one; bank.taps may leave them out",
        )
    users += ["method.name = at"] if "at" in methods else []
    if users and maps and config.settings().bank.grid == 0:
        raise UserError(
            "bank.grid",
            f"0, beside {', '.join(users)}",
            "above 0: these compare cells of feature maps",
            "--set bank.grid=4",
        )


def _possible(config: Config, key: str) -> tuple[Any, ...]:
    """Return the values that a leaf may take; of a range its two ends."""
    leaf = config.space.leaves.get(key)
    if leaf is None:
        section, _, name = key.partition(".")
        return (config.tree[section][name],)
    return leaf.options if isinstance(leaf, Choice) else (leaf.low, leaf.high)
