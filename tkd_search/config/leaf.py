"""Reading one leaf of the configuration: a value of the declared type and range, or a distribution."""

import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from tkd_search.errors import UserError
from tkd_search.fields import bounds_text, type_words
from tkd_search.optimize.space import (
    Choice,
    Distribution,
    FloatDistribution,
    IntDistribution,
    parse_distribution,
)

_KINDS = ("float", "int", "choice")


def is_section(value: Mapping[str, Any]) -> bool:
    """Return whether a mapping is a section of the tree rather than a distribution in YAML form."""
    return not any(kind in value for kind in _KINDS)


def read_leaf(
    cls: type,
    field: "dataclasses.Field[Any]",
    path: str,
    written: Mapping[str, Any],
    leaves: dict[str, Distribution],
) -> Any:
    """Return the checked plain value of one field; add a distribution to ``leaves`` by dotted path.

    Raises:
        UserError: wrong type, out of range, or a distribution where none is allowed.
    """
    if field.name not in written:
        default = field.default_factory() if callable(field.default_factory) else field.default
        return list(default) if isinstance(default, tuple) else default
    value = _with_home(written[field.name])
    if field.metadata.get("leaves") and isinstance(value, Mapping) and is_section(value):
        return {str(key): _free_leaf(sub, f"{path}.{key}", field, leaves) for key, sub in value.items()}
    distribution = _distribution(value, path, field)
    if distribution is None:
        checked = _validate(cls, field, path, value)
        return list(checked) if isinstance(checked, tuple) else checked
    ends = tuple(_validate(cls, field, path, end) for end in _ends(distribution))
    _refuse_kind(cls, field, path, distribution)
    if isinstance(distribution, Choice):
        distribution, value = Choice(ends), {"choice": list(ends)}
    leaves[path] = distribution
    return value


def _with_home(value: Any) -> Any:
    """Return a text, or a list of texts, with ``~`` at its start replaced by the home folder: a path."""
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def read_value(cls: type, name: str, path: str, value: Any) -> Any:
    """Return a value for a field by its name, converted to the declared type.

    Raises:
        UserError: wrong type, or out of range.
    """
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return _validate(cls, field, path, value)


def _free_leaf(
    value: Any, path: str, field: "dataclasses.Field[Any]", leaves: dict[str, Distribution]
) -> Any:
    distribution = _distribution(value, path, field)
    if distribution is not None:
        leaves[path] = distribution
    elif isinstance(value, Mapping):
        return {key: _free_leaf(sub, f"{path}.{key}", field, leaves) for key, sub in value.items()}
    elif isinstance(value, list) and any(isinstance(one, Mapping) and not is_section(one) for one in value):
        raise UserError(
            path,
            f"a distribution inside the list {value!r}",
            "a list of values, or a mapping of distributions",
        )
    return value


def _distribution(value: Any, path: str, field: "dataclasses.Field[Any]") -> Distribution | None:
    if not isinstance(value, Mapping) or is_section(value):
        return None
    if not field.metadata.get("searchable", True):
        raise UserError(path, f"the distribution {value!r}", "one value: this setting is not searched")
    try:
        return parse_distribution(value)
    except ValueError as error:
        raise UserError(
            path,
            f"{value!r}: {error}",
            "{float: [low, high], log: true}, {int: [low, high]}, {choice: [a, b]}",
        ) from error


def _ends(distribution: Distribution) -> tuple[Any, ...]:
    if isinstance(distribution, Choice):
        return tuple(distribution.options)
    return (distribution.low, distribution.high)


def _refuse_kind(cls: type, field: "dataclasses.Field[Any]", path: str, distribution: Distribution) -> None:
    hint = get_type_hints(cls)[field.name]
    numbers = {float, int} & set(get_args(hint) or (hint,))
    allowed = {float: (FloatDistribution, IntDistribution, Choice), int: (IntDistribution, Choice)}
    kinds = allowed[float] if float in numbers else allowed[int] if int in numbers else (Choice,)
    if not isinstance(distribution, kinds):
        names = {FloatDistribution: "float", IntDistribution: "int", Choice: "choice"}
        raise UserError(path, f"{distribution}", " or ".join(f"{{{names[kind]}: […]}}" for kind in kinds))


def _validate(cls: type, field: "dataclasses.Field[Any]", path: str, value: Any) -> Any:
    hint = get_type_hints(cls)[field.name]
    numeric = {float, int} & set(get_args(hint) or (hint,))
    if isinstance(value, bool) and numeric and bool not in (get_args(hint) or (hint,)):
        raise UserError(path, f"{value!r}", _allowed(cls, field))
    try:
        return _adapter(cls, field.name).validate_python(value)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join([path, *(str(part) for part in detail["loc"] if isinstance(part, int))])
        raise UserError(where, f"{detail['input']!r}", _allowed(cls, field), _quotes(detail)) from error


def _quotes(detail: Mapping[str, Any]) -> str:
    """Return a hint where YAML made another value of a text."""
    if detail["type"] != "string_type" or not isinstance(detail["input"], bool | int | float):
        return ""
    return "YAML reads yes and no as true and false, and digits as a number: write a text in quotes"


@cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    field = {f.name: f for f in dataclasses.fields(cls)}[name]
    hint: Any = get_type_hints(cls)[name]
    bounds = {key: field.metadata[key] for key in ("ge", "gt", "le", "lt") if key in field.metadata}
    arms = [arm for arm in get_args(hint) if arm is not type(None)]
    if bounds and type(None) in get_args(hint):
        hint = Annotated[arms[0], Field(**bounds)] | None
    elif bounds:
        hint = Annotated[hint, Field(**bounds)]
    return TypeAdapter(hint)


def _allowed(cls: type, field: "dataclasses.Field[Any]") -> str:
    """Return the legal values in words, with the setting's documentation."""
    hint = get_type_hints(cls)[field.name]
    words = " | ".join(type_words(hint))
    bounds = bounds_text(field.metadata)
    optional = " or null" if type(None) in get_args(hint) else ""
    return f"{words}{' ' + bounds if bounds else ''}{optional} ({field.metadata.get('doc', '')})"
