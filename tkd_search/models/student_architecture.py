"""Builds students: a named architecture with random weights, or one cut from F."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.training.evaluation import recalibrate
from tkd_search.errors import UserError
from tkd_search.models.build import architecture, as_student, build_network, model_spec
from tkd_search.models.cuts import ChannelGroup, Cut, apply_cut, check_cut, cut, find_groups
from tkd_search.models.families import ModelSpec
from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings
from tkd_search.models.student import Student


def build_student(
    settings: StudentSettings,
    *,
    classes: int,
    channels: int,
    size: int,
    big_model: BigModelSettings | None = None,
    record: Mapping[str, Any] | None = None,
) -> Student:
    """Build a student with random weights.

    Args:
        settings: name, width, depth, stem and further arguments.
        classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels.
        big_model: settings of F; needed for a cut without a record.
        record: what :func:`cut_student` returned, for the architecture of that very cut.

    Raises:
        UserError: the name is unknown, the arguments are wrong, or F cannot be cut.
    """
    if settings.name != CUT:
        spec = model_spec(settings, "student", classes, channels, size, depth=settings.depth)
        return as_student(build_network(spec, "student"), spec, "student")
    if record is not None:
        whole = _specification(_architecture(record), classes, channels, size)
        return as_student(apply_cut(build_network(whole, "big_model"), record), whole, "student")
    assert big_model is not None, "a cut needs F"
    whole, network, groups = _big_network(big_model, classes, channels, size)
    # Shapes depend on the widths alone, so any importance gives the architecture.
    made = _cut(replace(settings, importance="random"), network, whole, groups)
    return as_student(made.network, whole, "student")


def cut_student(
    settings: StudentSettings,
    trained: nn.Module,
    big_model: BigModelSettings,
    *,
    classes: int,
    channels: int,
    size: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
) -> tuple[Student, dict[str, Any]]:
    """Cut a student from the trained F: the channels that stay keep F's weights.

    Args:
        settings: width, ``args.ratios`` and importance.
        trained: F's network with its weights; not changed.
        big_model: its settings.
        classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels.
        batches: normalised training images [B, C, H, W] and labels [B] on F's device; statistics of batch
            normalisation are computed from them, and the importance ``taylor``.
        seed: seed of the importance ``random``.

    Returns:
        The student in eval mode on F's device, and the record (plain JSON) from which :func:`build_student`
        rebuilds its architecture: F's architecture, the removed channels of each group, and new shapes.

    Raises:
        UserError: wrong settings, or F cannot be cut.
    """
    whole, _, groups = _big_network(big_model, classes, channels, size)
    batches = list(batches)
    made = _cut(settings, trained, whole, groups, batches=batches, seed=seed)
    found = architecture(big_model, classes=classes, channels=channels, size=size)
    record = {**made.record, "big_model": {key: getattr(found, key) for key in _ARCHITECTURE}}
    student = build_student(settings, classes=classes, channels=channels, size=size, record=record)
    student.model.load_state_dict(made.network.state_dict())
    student.to(batches[0][0].device)
    recalibrate(student.model, (images for images, _ in batches))
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


_ARCHITECTURE = ("name", "width", "args", "stem")
"""Settings of F that decide its architecture, kept in the record."""


def _architecture(record: Mapping[str, Any]) -> BigModelSettings:
    try:
        return BigModelSettings(**{key: record["big_model"][key] for key in _ARCHITECTURE})
    except (KeyError, TypeError) as error:
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
    """Cut a network of F's architecture as the settings say.

    Raises:
        UserError: a setting that a cut does not have.
    """
    if unknown := sorted(settings.args.keys() - {"ratios"}):
        raise UserError(
            f"student.args.{unknown[0]}", repr(settings.args[unknown[0]]), "ratios alone for a cut"
        )
    return cut(
        network,
        _example(whole),
        width=settings.width,
        importance=settings.importance,
        ratios=settings.args.get("ratios"),
        batches=batches,
        seed=seed,
        groups=groups,
    )
