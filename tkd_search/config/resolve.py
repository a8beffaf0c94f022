"""A point of the space as it is wished for and as it is run, and the student in it as a person calls it."""

from collections.abc import Mapping
from typing import Any

from tkd_search.config.experiment_file import Config
from tkd_search.config.sections import Settings
from tkd_search.models.families import family_of
from tkd_search.models.model_settings import StudentSettings


def clip_point(
    config: Config, point: Mapping[str, Any], candidates: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """K clipped to the number of candidates (taps × masks), with a note for each clipping."""
    clipped = dict(point)
    settings = config.settings(clipped)
    most = candidates * settings.method.masks
    if clipped.get("method.k", 0) > most:
        note = f"method.k {clipped['method.k']} → {most}: taps × masks"
        clipped["method.k"] = most
        return clipped, (note,)
    return clipped, ()


def left_to_sampler(config: Config) -> str:
    """A line on the values in ``search.enqueue`` that the searched space excludes; '' without any."""
    leaves = config.space.leaves
    outside = [
        f"search.enqueue.{number}.{key} = {value!r} (searched: {leaves[key]})"
        for number, wish in enumerate(config.settings().search.enqueue)
        for key, value in wish.items()
        if key in leaves and not leaves[key].contains(value)
    ]
    return f"outside the searched space, left to the sampler: {'; '.join(outside)}" if outside else ""


def describe_student(settings: Settings) -> str:
    """A short name a person can read: ``mobilenet_v2 ×0.25``, ``plain_cnn widths=[32, 64]``."""
    student = settings.student
    own = ":" in student.name  # a function of the user's, which may know neither width nor depth
    family = family_of(student.name)
    wide = student.width != StudentSettings().width if own else family.width
    words = [student.name.rsplit(":", 1)[-1]]
    words += [f"×{student.width:.3g}"] if wide else []
    words += [f"d{student.depth:g}"] if student.depth != 1 and (own or family.depth) else []
    words += [f"{name}={value}" for name, value in student.args.items()] if own else []
    return " ".join(words)
