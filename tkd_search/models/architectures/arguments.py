"""Which arguments a network takes by name; others are refused, because some constructors ignore them."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from tkd_search.errors import UserError
from tkd_search.models.architectures.families import ModelSpec, family_of
from tkd_search.models.architectures.timm_networks import PREFIX, RESERVED, is_timm, timm
from tkd_search.models.torchvision_compat import torchvision

_RESERVED = (
    *("self", "num_classes", "channels", "size", "image_size", "width", "depth", "small"),
    *("weights", "progress", "init_weights", "aux_logits"),
    *("block", "layers", "inverted_residual_setting", "last_channel"),
)
"""Arguments that the settings, the data set or the name decide, and those that would load weights."""


def check_arguments(spec: ModelSpec, where: str) -> None:
    """Refuse an argument that the constructor of a network of torchvision or timm does not take.

    Args:
        spec: a network by name, not one of an import path.
        where: section of the configuration that errors name.

    Raises:
        UserError: an argument is unknown or reserved.
    """
    if not spec.args:
        return
    allowed = _of_timm(spec) if is_timm(spec.name) else _of_torchvision(spec)
    if allowed is None:
        return
    for key in spec.args:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            raise UserError(
                f"{where}.args",
                f"{key} = {spec.args[key]!r}",
                f"arguments of {spec.name}: {', '.join(sorted(allowed)) or 'none'}",
                f"nearest: {near[0]}" if near else _hint(key, where),
            )


def _hint(key: str, where: str) -> str:
    return f"weights are given by {where}.weights" if key in ("weights", "pretrained") else ""


def _of_torchvision(spec: ModelSpec) -> set[str]:
    """Return the parameters of this project's builder and, if it passes more on, of torchvision's class."""
    builder = family_of(spec.name).builder
    own = () if builder is None else _names(builder)
    if builder is not None and not _passes_on(builder):
        return set(own) - set(_RESERVED)
    return {*own, *_of_class(torchvision.models.get_model_builder(spec.name))} - set(_RESERVED)


def _of_timm(spec: ModelSpec) -> set[str] | None:
    """Return the parameters of the network's class and of its configuration, where it has one.

    Some of them are decided by the name; timm's builder then raises an error. None where timm does not name
    the class (one network in twenty): the constructor itself refuses what it does not know.
    """
    builder = timm().model_entrypoint(spec.name.removeprefix(PREFIX))
    if inspect.signature(builder).return_annotation is inspect.Signature.empty:
        return None
    return set(_of_class(builder)) - {"self", *RESERVED}


def _of_class(builder: Callable[..., Any]) -> Iterable[str]:
    """Yield the parameters of the class that a library's builder returns by its annotation."""
    kind = inspect.signature(builder).return_annotation
    for parameter in inspect.signature(kind.__init__).parameters.values():
        if parameter.name == "cfg" and is_dataclass(parameter.annotation):
            yield from (field.name for field in fields(parameter.annotation))
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield parameter.name


def _names(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _passes_on(function: Callable[..., Any]) -> bool:
    """Return whether a builder passes further arguments to torchvision's class."""
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
