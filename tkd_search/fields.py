"""Declaration of settings: each field of a settings dataclass has a default, a text and an allowed range.

Every package keeps its settings as plain frozen dataclasses, so the method needs neither pydantic nor YAML.
``tkd_search.config`` reads the same declarations to build the typed tree of a YAML file.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

_MISSING = dataclasses.MISSING


class SettingError(ValueError):
    """A settings dataclass was given an illegal value.

    Attributes:
        field: name of the field.
        found: the value, as text.
        allowed: the legal values in words.
    """

    def __init__(self, field: str, found: str, allowed: str) -> None:
        super().__init__(field, found, allowed)
        self.field, self.found, self.allowed = field, found, allowed

    def __str__(self) -> str:
        return f"{self.field} = {self.found}; allowed: {self.allowed}"


def setting(
    default: Any = _MISSING,
    *,
    doc: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    searchable: bool = True,
    when: Mapping[str, tuple[Any, ...]] | None = None,
    leaves: bool = False,
    default_factory: Callable[[], Any] | None = None,
) -> Any:
    """Declare one field of a settings dataclass.

    Args:
        default: value where the user gives none; a field without a default is required.
        doc: one sentence with unit and meaning, shown in the documentation of settings.
        ge: smallest allowed value.
        gt: exclusive lower bound.
        le: largest allowed value.
        lt: exclusive upper bound.
        searchable: whether a distribution may replace the value.
        when: sibling field → the values under which this field has an effect; a searched field is suggested
            only then. Several entries must all hold.
        leaves: whether the value is a mapping with leaves of its own, each of which may be searched.
        default_factory: for mutable defaults.

    Returns:
        A ``dataclasses.field`` whose metadata holds this declaration.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {
        "doc": doc,
        "searchable": searchable,
        "when": dict(when or {}),
        "leaves": leaves,
        **{name: bound for name, bound in bounds.items() if bound is not None},
    }
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": ("≥", lambda value, bound: value >= bound),
    "gt": (">", lambda value, bound: value > bound),
    "le": ("≤", lambda value, bound: value <= bound),
    "lt": ("<", lambda value, bound: value < bound),
}


def bounds_text(metadata: Any) -> str:
    """Return the allowed range as text, such as ``≥ 0, ≤ 1``; empty where there is none."""
    return ", ".join(f"{sign} {metadata[name]:g}" for name, (sign, _) in _BOUNDS.items() if name in metadata)


def type_words(hint: Any, quote: str = "") -> Iterator[str]:
    """Yield the types that a setting may have, in words, or its options; null is left out.

    Args:
        hint: the field's annotation, resolved.
        quote: stands around an option.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        yield from (f"{quote}{option}{quote}" for option in arguments)
    elif origin in (Union, UnionType):
        for part in arguments:
            if part is not type(None):
                yield from type_words(part, quote)
    elif origin in (tuple, list):
        yield f"list of {', '.join(type_words(arguments[0], quote))}"
    elif origin is dict:
        yield "mapping"
    else:
        yield _WORDS.get(hint, hint.__name__)


def check_bounds(settings: Any) -> None:
    """Check the numeric fields of a settings dataclass, for its ``__post_init__``.

    Raises:
        SettingError: a value lies outside its declared range.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for name, (_, holds) in _BOUNDS.items():
            if name in field.metadata and not holds(value, field.metadata[name]):
                raise SettingError(field.name, repr(value), bounds_text(field.metadata))
