"""Checks of the students that a search may propose, before anything is written."""

from collections.abc import Iterator, Sequence

import torch

from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import LOCAL
from tkd_search.data import DataBundle
from tkd_search.data.networks import student_for
from tkd_search.distill.quantization.number_format import Format, rounds_weights
from tkd_search.distill.quantization.targets import unrounded
from tkd_search.errors import UserError, first_line
from tkd_search.export.format_support import check_formats
from tkd_search.export.shipping import untrained_onnx
from tkd_search.models import Student, model_parameters
from tkd_search.models.architectures.families import family_of
from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings
from tkd_search.models.student_architecture import check_cut_settings
from tkd_search.optimize.space import Choice
from tkd_search.optimize.student_costs import STUDENT


def check_students(config: Config, data: DataBundle) -> tuple[tuple[StudentSettings, ...], tuple[str, ...]]:
    """Return one student for every option that decides the student, and notes for the user.

    Raises:
        UserError: a format that cannot run, an F that cannot be cut, or a student that cannot be built or, if
            it is the user's own, exported.
    """
    check_formats(config.possible("student.format"))
    _check_cut(config, data)
    rounding = [format for format in config.possible("student.format") if rounds_weights(format)]
    # One network at a time: a choice of names may hold several that are large.
    found, notes = [], list[str]()
    for settings, student in _sample_students(config, data):
        found.append(settings)
        notes += [_unrounded_note(settings.name, student, rounding), _maps_note(config, student, settings)]
        _check_own(settings, student)
    _check_sizes(config)
    return tuple(found), tuple(dict.fromkeys(filter(None, notes)))


def _check_cut(config: Config, data: DataBundle) -> None:
    """Refuse students cut from a big model that cannot be cut."""
    if CUT in config.possible("student.name"):
        check_cut_settings(
            config.settings().big_models[0],
            config.possible("student.importance"),
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


def _check_own(settings: StudentSettings, student: Student) -> None:
    """Run the untrained ONNX file of a user's own student; the student is changed.

    Raises:
        UserError: the file cannot be written, or fails for another number of images than it was traced with.
    """
    if ":" not in settings.name:
        return
    try:
        onnx = untrained_onnx(student.model, settings.format, student.input_shape)
        for images in (1, 3):
            onnx(torch.zeros(images, *student.input_shape))
    except Exception as error:  # the exporter's and onnxruntime's own errors are of many types
        raise UserError(
            "student.name",
            f"{settings.name}, whose ONNX file fails: {type(error).__name__}: {first_line(error)}",
            "a network that torch exports to ONNX for any number of images",
            "in its forward, write x.shape[0] where it has len(x) or int(…)",
        ) from error


def _first_that_builds(
    students: Sequence[StudentSettings], data: DataBundle, big_model: BigModelSettings
) -> tuple[StudentSettings, Student]:
    problems = []
    for student in students:
        try:
            return student, student_for(student, big_model, data)
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _check_sizes(config: Config) -> None:
    """Refuse a width, depth or argument that the student does not have: it would change nothing."""
    student, searched = config.settings().student, config.space.leaves
    name = student.name
    if config.possible("student.name") == (CUT,) and student.args:
        key, value = next(iter(student.args.items()))
        depth = StudentSettings().depth
        also = f" --set student.depth={depth}" if student.depth != depth else ""
        raise UserError(
            f"student.args.{key}",
            repr(value),
            "no arguments: a cut has the big model's architecture",
            f"--set student.args={{}}{also}",
        )
    family = family_of(name)  # of a function at an import path: one without width and depth
    for field, varies in (("width", family.width), ("depth", family.depth)):
        value, default = getattr(student, field), getattr(StudentSettings(), field)
        is_set = ":" not in name and value not in (default, 1.0)
        is_searched = f"student.{field}" in searched
        if (is_searched or is_set) and "student.name" not in searched and not varies:
            raise UserError(
                f"student.{field}",
                "a distribution" if is_searched else str(value),
                f"the default, {default}: {name} has no {field}",
                f"--set student.{field}={default}; vary the size by student.args, or by several student.name",
            )


def _maps_note(config: Config, student: Student, settings: StudentSettings) -> str:
    """Return a note where the method compares feature maps and a student has none that it pools; else ''."""
    methods = config.possible("method.name")
    terms = ["method at (it trains as kd)"] if "at" in methods else []
    if "tkd" in methods:
        terms += [key for key in LOCAL if max(config.possible(key)) > 0]
    if student.roles.maps is not None or not terms:
        return ""
    missing = ", ".join(terms)
    return f"{settings.name} does not pool one feature map into its features: no effect there of {missing}"


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
