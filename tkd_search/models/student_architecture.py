"""Builds students: a named architecture with random weights, or one cut from F."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.training.evaluation import recalibrate
from tkd_search.errors import UserError
from tkd_search.models.architectures.families import ModelSpec
from tkd_search.models.build import architecture, as_student, build_network, model_spec
from tkd_search.models.cuts import ChannelGroup, Cut, apply_cut, check_cut, cut, find_groups
from tkd_search.models.image_input import ImageInput, rendered, rendering, student_input
from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings
from tkd_search.models.student import Student
from tkd_search.results.json_values import from_plain


def build_student(
    settings: StudentSettings,
    *,
    classes: int,
    channels: int,
    size: int,
    big_model: BigModelSettings | None = None,
    record: Mapping[str, Any] | None = None,
    given: ImageInput | None = None,
) -> Student:
    """Build a student with random weights.

    Args:
        settings: name, width, depth, stem and further arguments.
        classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels; ``settings.input_size`` counts before it.
        big_model: settings of F; needed for a cut without a record, and with ``given``.
        record: what :func:`cut_student` returned, for the architecture of that very cut.
        given: size and normalisation of the images that it will be given; it renders its own input from
            them. None: it is given its own input.

    Raises:
        UserError: the name is unknown, the arguments are wrong, or F cannot be cut.
    """
    if settings.name != CUT:
        spec = model_spec(settings, "student", classes, channels, size, depth=settings.depth)
        network = build_network(spec, "student")
    elif record is not None:
        spec = _specification(_architecture(record), classes, channels, size)
        network = apply_cut(build_network(spec, "big_model"), record)
    else:
        assert big_model is not None, "a cut needs F"
        spec, whole, groups = _big_network(big_model, classes, channels, size)
        # Shapes depend on the widths alone, so any importance gives the architecture.
        network = _cut(replace(settings, importance="random"), whole, spec, groups).network
    spec = replace(spec, size=settings.input_size or spec.size)  # a cut has F's layers at any size
    student = as_student(network, spec, "student")
    if given is not None:
        assert big_model is not None
        student.render = rendering(given, student_input(settings, big_model, given))
    return student


def cut_student(
    settings: StudentSettings,
    trained: Student,
    big_model: BigModelSettings,
    *,
    classes: int,
    channels: int,
    size: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    given: ImageInput | None = None,
) -> tuple[Student, dict[str, Any]]:
    """Cut a student from the trained F: the channels that stay keep F's weights.

    Args:
        settings: width, ratios and importance.
        trained: F with its weights; not changed.
        big_model: its settings.
        classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels.
        batches: training images [B, C, H, W] as ``trained`` takes them and labels [B], on its device;
            statistics of batch normalisation are computed from them, and the importance ``taylor``.
        seed: seed of the importance ``random``.
        given: see :func:`build_student`.

    Returns:
        The student in eval mode on F's device, and the record (plain JSON) from which :func:`build_student`
        rebuilds its architecture: F's architecture, the removed channels of each group, and new shapes.

    Raises:
        UserError: wrong settings, or F cannot be cut.
    """
    whole, _, groups = _big_network(big_model, classes, channels, size)
    batches = list(batches)
    inputs = list(rendered(batches, trained.render))
    made = _cut(settings, trained.model, whole, groups, batches=inputs, seed=seed)
    found = architecture(big_model, classes=classes, channels=channels, size=size)
    record = {**made.record, "big_model": {key: getattr(found, key) for key in _ARCHITECTURE}}
    student = build_student(
        settings,
        classes=classes,
        channels=channels,
        size=size,
        big_model=big_model,
        record=record,
        given=given,
    )
    student.model.load_state_dict(made.network.state_dict())
    student.to(batches[0][0].device)
    recalibrate(student, (images for images, _ in batches))
    return student, record


def check_cut_settings(
    settings: BigModelSettings, importances: Iterable[str], *, classes: int, channels: int, size: int
) -> None:
    """Refuse a big model that cannot be cut, or not by these importances.

    Raises:
        UserError: it names the layer or operation.
    """
    whole, network, _ = _big_network(settings, classes, channels, size)
    check_cut(network, _example(whole), importances=tuple(importances))


_ARCHITECTURE = ("name", "width", "args", "stem", "input_size")
"""Settings of F that decide its architecture, kept in the record."""


def _architecture(record: Mapping[str, Any]) -> BigModelSettings:
    try:
        return from_plain(BigModelSettings, {key: record["big_model"][key] for key in _ARCHITECTURE})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "cut.json", f"no description of the big model ({error})", ", ".join(_ARCHITECTURE)
        ) from error


def _specification(big_model: BigModelSettings, classes: int, channels: int, size: int) -> ModelSpec:
    return model_spec(big_model, "big_model", classes, channels, size)


def _big_network(
    settings: BigModelSettings, classes: int, channels: int, size: int
) -> tuple[ModelSpec, nn.Module, tuple[ChannelGroup, ...]]:
    """Return F's specification, its network with random weights, and its groups of channels."""
    return _known_network(json.dumps(asdict(settings), sort_keys=True), classes, channels, size)


@lru_cache(maxsize=2)
def _known_network(
    settings: str, classes: int, channels: int, size: int
) -> tuple[ModelSpec, nn.Module, tuple[ChannelGroup, ...]]:
    shape = {"classes": classes, "channels": channels, "size": size}
    found = architecture(BigModelSettings(**json.loads(settings)), **shape)
    whole = _specification(found, **shape)
    with torch.random.fork_rng(devices=[]):
        network = build_network(whole, "big_model").eval()
        as_student(copy.deepcopy(network), whole, "big_model")  # says so where it cannot take such images
    return whole, network, find_groups(network, _example(whole))


def _example(spec: ModelSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, spec.channels, spec.size, spec.size, generator=generator)


def _cut(
    settings: StudentSettings,
    network: nn.Module,
    whole: ModelSpec,
    groups: tuple[ChannelGroup, ...],
    *,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    seed: int = 0,
) -> Cut:
    """Cut a network of F's architecture as the settings say."""
    return cut(
        network,
        _example(whole),
        width=settings.width,
        importance=settings.importance,
        ratios=settings.ratios,
        batches=batches,
        seed=seed,
        groups=groups,
    )
