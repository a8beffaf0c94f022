"""Declaration of settings: each field of a settings dataclass has a default, a text and an allowed range.

Every package keeps its settings as plain frozen dataclasses, so the method needs neither pydantic nor YAML.
``tkd_search.config`` reads the same declarations to build the typed tree of a YAML file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

_MISSING = dataclasses.MISSING


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
        default_factory: for mutable defaults.

    Returns:
        A ``dataclasses.field`` whose metadata holds this declaration.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {
        "doc": doc,
        "searchable": searchable,
        "when": dict(when or {}),
        **{name: bound for name, bound in bounds.items() if bound is not None},
    }
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": ("≥", lambda value, bound: value >= bound),
    "gt": (">", lambda value, bound: value > bound),
    "le": ("≤", lambda value, bound: value <= bound),
    "lt": ("<", lambda value, bound: value < bound),
}


def bounds_text(metadata: Any) -> str:
    """Return the allowed range as text, such as ``≥ 0, ≤ 1``; empty where there is none."""
    return ", ".join(f"{sign} {metadata[name]:g}" for name, (sign, _) in _BOUNDS.items() if name in metadata)


def check_bounds(settings: Any) -> None:
    """Check that every numeric field of a settings dataclass lies in its declared range.

    Meant for ``__post_init__``.

    Raises:
        ValueError: a field is out of range; the message names field, value and allowed range.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for name, (_, holds) in _BOUNDS.items():
            if name in field.metadata and not holds(value, field.metadata[name]):
                allowed = bounds_text(field.metadata)
                raise ValueError(f"{type(settings).__name__}.{field.name} = {value!r}; allowed: {allowed}")
