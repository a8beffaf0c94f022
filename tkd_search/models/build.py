"""Builds networks from their settings: a name of torchvision or timm, or a function's path."""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from tkd_search.distill.interfaces import logits_of
from tkd_search.errors import UserError, first_line
from tkd_search.models.architectures.arguments import check_arguments
from tkd_search.models.architectures.families import ModelSpec, build_named, family_of, known_names
from tkd_search.models.architectures.timm_networks import converted, is_timm
from tkd_search.models.depthwise import speed_up_depthwise
from tkd_search.models.image_input import ImageInput, big_model_input, rendering
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.pointwise import slice_pointwise
from tkd_search.models.pretrained import named_state
from tkd_search.models.strides import wants_small_stem
from tkd_search.models.student import Student
from tkd_search.models.weights import Head, fit_state, unwrapped


def build_big_model(
    settings: BigModelSettings,
    *,
    classes: int,
    channels: int,
    size: int,
    given: ImageInput | None = None,
) -> Student:
    """Build the big model F; arguments, weights and errors as in :func:`load_big_model`."""
    return load_big_model(settings, classes=classes, channels=channels, size=size, given=given)[0]


def load_big_model(
    settings: BigModelSettings,
    *,
    classes: int,
    channels: int,
    size: int,
    given: ImageInput | None = None,
) -> tuple[Student, Head]:
    """Build the big model F, with ``settings.weights`` if given, else with random weights.

    Args:
        settings: name, width, stem, weights and further arguments.
        classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels; ``settings.input_size`` counts before it.
        given: size and normalisation of the images that it will be given; it renders its own input from
            them. None: it is given its own input.

    Returns:
        The network, and the last layer of its weights that is for other classes: the network's own is random.

    Raises:
        UserError: the name is unknown, the arguments are wrong, or the weights fit no stem or both stems.
    """
    spec = model_spec(settings, "big_model", classes, channels, size)
    if settings.weights is None:
        net, head = build_network(spec, "big_model"), Head()
    else:
        spec, net, head = _loaded(settings, spec)
    student = as_student(net, spec, "big_model")
    if given is not None:
        student.render = rendering(given, _checked(big_model_input(settings, given), channels))
    return student, head


def architecture(settings: BigModelSettings, *, classes: int, channels: int, size: int) -> BigModelSettings:
    """Return the settings from which :func:`build_network` makes F's architecture: no weights, no stem auto.

    Reads the weights where they decide the stem; arguments and errors as of :func:`build_big_model`.
    """
    spec = model_spec(settings, "big_model", classes, channels, size)
    if settings.weights is not None and settings.stem == "auto":
        spec = _loaded(settings, spec)[0]
    return BigModelSettings(
        name=settings.name,
        width=settings.width,
        args=settings.args,
        input_size=spec.size,
        stem="small" if spec.small else "original",
    )


def _checked(wanted: ImageInput, channels: int) -> ImageInput:
    """Refuse a normalisation of another number of planes."""
    if len(wanted.mean) != channels or len(wanted.std) != channels:
        raise UserError(
            "big_model.mean", f"{len(wanted.mean)} numbers", f"{channels}, one per plane of the data's images"
        )
    return wanted


def is_trained(settings: BigModelSettings, head: Head) -> bool:
    """Return whether the big model that :func:`load_big_model` returned is trained here."""
    return settings.weights is None or bool(head.parameters) or settings.fine_tune


def _loaded(settings: BigModelSettings, spec: ModelSpec) -> tuple[ModelSpec, nn.Module, Head]:
    """Return the network with its weights; for the stem ``auto``, with the stem that the weights fit."""
    where = "big_model.weights"
    assert settings.weights is not None
    state, source = named_state(settings.weights, name=settings.name, where=where)
    fitting: dict[str, tuple[ModelSpec, nn.Module, Head]] = {}
    problem: UserError | None = None
    for small in dict.fromkeys((spec.small, False)) if settings.stem == "auto" else (spec.small,):
        try:
            tried = replace(spec, small=small)
            net = build_network(tried, "big_model")
            own = converted(net, unwrapped(net, state)) if is_timm(spec.name) else state
            head = fit_state(net, own, where=where, source=source, new_head_for=spec.classes)
            fitting.setdefault(str(net), (tried, net, head))
        except UserError as error:
            problem = problem or error
    if len(fitting) > 1:  # the two networks differ in strides only
        raise UserError(
            "big_model.stem",
            f"auto, but {source} fits both stems",
            "original (torchvision's) or small (for inputs up to 64 pixels)",
            "use --set big_model.stem=original, or small if the weights were trained by tkd_search",
        )
    if problem is not None and not fitting:
        raise problem
    return next(iter(fitting.values()))


def build_network(spec: ModelSpec, where: str) -> nn.Module:
    """Build the network of a specification.

    Args:
        spec: the specification.
        where: section of the configuration that errors name.

    Raises:
        UserError: the name is unknown, the arguments are wrong, or the result is no network.
    """
    build = _imported(spec, where) if ":" in spec.name else _named(spec, where)
    try:
        net = build()
    except UserError:
        raise
    except Exception as error:  # the constructor of a user may raise any error
        raise UserError(
            f"{where}.args",
            f"{dict(spec.args)!r}: {first_line(error)}",
            f"arguments that {spec.name} accepts, for images of {spec.size} × {spec.size} pixels",
        ) from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{where}.name", f"{spec.name} returned {type(net).__name__}", "a torch.nn.Module")
    return net


def as_student(net: nn.Module, spec: ModelSpec, where: str) -> Student:
    """Replace slow convolutions and wrap the network as a student.

    Raises:
        UserError: the network fails on such images or has another number of classes.
    """
    shape = f"{spec.channels} × {spec.size} × {spec.size}"
    speed_up_depthwise(net)
    slice_pointwise(net)
    net.register_forward_hook(_logits_alone)
    try:
        student = Student(net, (spec.channels, spec.size, spec.size))
    except Exception as error:
        raise UserError(
            f"{where}.name",
            f"{spec.name}, which fails on {shape} images: {first_line(error)}",
            "a network that takes such images [B, C, H, W] and returns logits [B, c]",
            "set data.size to the size it was built for, or choose another network",
        ) from error
    if student.roles.classes != spec.classes:
        raise UserError(
            f"{where}.name",
            f"{spec.name}, which returns {student.roles.classes} logits",
            f"{spec.classes} logits, one per class; it is called with num_classes={spec.classes}",
        )
    return student


def _logits_alone(net: nn.Module, given: Any, output: Any) -> Any:
    """Make a network that returns more, such as (logits, features), return what is exported: logits."""
    return logits_of(output)


def model_spec(
    settings: BigModelSettings | StudentSettings,
    where: str,
    classes: int,
    channels: int,
    size: int,
    depth: float = 1.0,
) -> ModelSpec:
    """Return the specification of a network; the stem ``auto`` is small for small images.

    Args:
        settings: of the network.
        where: section of the configuration that errors name.
        classes: number of classes c.
        channels: channels of the images.
        size: side of the images in pixels where the settings have no ``input_size``.
        depth: multiplier of blocks per stage.
    """
    size = settings.input_size or size
    return ModelSpec(
        name=settings.name,
        classes=classes,
        channels=channels,
        size=size,
        width=settings.width,
        depth=depth,
        small=wants_small_stem(settings.stem, size),
        args=settings.args,
    )


def _named(spec: ModelSpec, where: str) -> Callable[[], nn.Module]:
    names = known_names(spec.name)
    if spec.name not in names:
        near = difflib.get_close_matches(spec.name, names, n=3)
        raise UserError(
            f"{where}.name",
            repr(spec.name),
            "a classifier of torchvision.models, timm/<name> for one of timm, or package.module:function",
            f"nearest: {', '.join(near)}" if near else "",
        )
    family = family_of(spec.name)
    for knob, varies, value in (
        ("width", family.width, spec.width),
        ("depth", family.depth, spec.depth),
    ):
        if not varies and value != 1.0 and where == "big_model":
            raise UserError(f"{where}.{knob}", f"{value:g}", f"1: {spec.name} has no {knob} here")
    check_arguments(spec, where)
    return lambda: build_named(spec)


def _imported(spec: ModelSpec, where: str) -> Callable[[], nn.Module]:
    """Return a builder that calls the user's function with ``num_classes`` and its own arguments alone."""
    function = import_path(spec.name, f"{where}.name")
    return lambda: function(**{"num_classes": spec.classes, **spec.args})


def import_path(path: str, where: str) -> Callable[..., Any]:
    """Import the callable that ``package.module:function`` names.

    Raises:
        UserError: the module cannot be imported or has no such callable.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            where,
            f"{path!r}: {error}",
            "package.module:function that Python can import",
            "install the package, or run in the folder that contains the module",
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(
            where, f"{path!r}: {module_name} has no callable {attribute!r}", "package.module:function"
        )
    return found
