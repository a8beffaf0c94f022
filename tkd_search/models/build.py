"""Big models and students from their settings: torchvision's names, or any ``package.module:function``."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from tkd_search.errors import UserError
from tkd_search.models.depthwise import quicken_depthwise
from tkd_search.models.families import Request, build_torchvision, family_of, torchvision_names
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.pointwise import slice_pointwise
from tkd_search.models.strides import wants_small_stem
from tkd_search.models.student import Student
from tkd_search.models.weights import fit_state, named_state

STEMS = ("auto", "small", "original")


def build_big_model(settings: BigModelSettings, *, classes: int, channels: int, size: int) -> Student:
    """The big model F, with ``settings.weights`` loaded where there are any, random otherwise.

    Args:
        settings: name, width, stem, weights, further arguments.
        classes: number of classes c.
        channels: planes of the images.
        size: side of the images in pixels.

    Raises:
        UserError: unknown name, wrong arguments, or weights that do not fit, or fit both stems.
    """
    request = _request(settings, "big_model", classes, channels, size)
    if settings.weights is None:
        return _dressed(build_network(request, "big_model"), request, "big_model")
    return _dressed(_loaded(settings, request), request, "big_model")


def build_student(settings: StudentSettings, *, classes: int, channels: int, size: int) -> Student:
    """A student with random weights; arguments and errors as :func:`build_big_model`."""
    request = _request(settings, "student", classes, channels, size, depth=settings.depth)
    return _dressed(build_network(request, "student"), request, "student")


def _loaded(settings: BigModelSettings, request: Request) -> nn.Module:
    """The network with its weights; stem ``auto`` is the one that they fit."""
    where = "big_model.weights"
    assert settings.weights is not None
    state, source = named_state(settings.weights, name=settings.name, classes=request.classes, where=where)
    fitting: dict[str, nn.Module] = {}
    problem: UserError | None = None
    for small in dict.fromkeys((request.small, False)) if settings.stem == "auto" else (request.small,):
        try:
            net = build_network(replace(request, small=small), "big_model")
            fit_state(net, state, where=where, source=source)
            fitting.setdefault(str(net), net)
        except UserError as error:
            problem = problem or error
    if len(fitting) > 1:  # strides alone differ
        raise UserError(
            "big_model.stem",
            f"auto, where {source} fits both",
            "original (torchvision's) or small (made for inputs up to 64 pixels)",
            "--set big_model.stem=original, unless it was trained here",
        )
    if problem is not None and not fitting:
        raise problem
    return next(iter(fitting.values()))


def build_network(request: Request, where: str) -> nn.Module:
    """The plain network of a request; ``where`` is the section of the configuration that errors name."""
    build = _imported(request, where) if ":" in request.name else _torchvision(request, where)
    try:
        net = build()
    except UserError:
        raise
    except Exception as error:  # whatever a constructor says of its arguments, a user's own most of all
        raise UserError(
            f"{where}.args",
            f"{dict(request.args)!r}: {_first_line(error)}",
            f"arguments that {request.name} takes, for images of {request.size} × {request.size} pixels",
        ) from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{where}.name", f"{request.name} returned {type(net).__name__}", "a torch.nn.Module")
    return net


def _dressed(net: nn.Module, request: Request, where: str) -> Student:
    """Quicken and wrap; a network that fails on such images, or has other classes, is the user's to mend."""
    shape = f"{request.channels} × {request.size} × {request.size}"
    quicken_depthwise(net)
    slice_pointwise(net)
    try:
        student = Student(net, (request.channels, request.size, request.size))
    except Exception as error:
        raise UserError(
            f"{where}.name",
            f"{request.name}, which fails on {shape} images: {_first_line(error)}",
            "a network that takes such images [B, C, H, W] and returns logits [B, c]",
            "set data.size to what it was made for, or choose another",
        ) from error
    if student.wiring.classes != request.classes:
        raise UserError(
            f"{where}.name",
            f"{request.name}, which returns {student.wiring.classes} logits",
            f"{request.classes}, one for every class; it is called with num_classes={request.classes}",
        )
    return student


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _request(
    settings: BigModelSettings | StudentSettings,
    where: str,
    classes: int,
    channels: int,
    size: int,
    depth: float = 1.0,
) -> Request:
    if settings.stem not in STEMS:
        raise UserError(f"{where}.stem", repr(settings.stem), " | ".join(STEMS))
    return Request(
        name=settings.name,
        classes=classes,
        channels=channels,
        size=size,
        width=settings.width,
        depth=depth,
        small=wants_small_stem(settings.stem, size),
        args=settings.args,
    )


def _torchvision(request: Request, where: str) -> Callable[[], nn.Module]:
    names = torchvision_names()
    if request.name not in names:
        near = difflib.get_close_matches(request.name, names, n=3)
        raise UserError(
            f"{where}.name",
            repr(request.name),
            "a classifier of torchvision.models, or package.module:function",
            f"nearest: {', '.join(near)}" if near else "",
        )
    family = family_of(request.name)
    for knob, varies, value in (
        ("width", family.width, request.width),
        ("depth", family.depth, request.depth),
    ):
        if not varies and value != 1.0 and where == "big_model":
            raise UserError(f"{where}.{knob}", f"{value:g}", f"1: {request.name} has no {knob} here")
    return lambda: build_torchvision(request)


def _imported(request: Request, where: str) -> Callable[[], nn.Module]:
    """A user's own function; it is called with ``num_classes`` and its own arguments alone."""
    function = import_path(request.name, f"{where}.name")
    return lambda: function(**_own_arguments(request))


def _own_arguments(request: Request) -> Mapping[str, Any]:
    return {"num_classes": request.classes, **request.args}


def import_path(path: str, where: str) -> Callable[..., Any]:
    """What ``package.module:function`` names.

    Raises:
        UserError: no such module, or no such callable in it.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            where,
            f"{path!r}: {error}",
            "package.module:function that Python can import",
            "install the package, or run from the folder that holds the module",
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(
            where, f"{path!r}: {module_name} has no callable {attribute!r}", "package.module:function"
        )
    return found
