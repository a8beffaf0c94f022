"""How a setting is declared: default, documentation and legal range beside the thing it configures.

Every package keeps its settings as plain frozen dataclasses, so that the method needs neither pydantic
nor YAML. ``config.py`` reads the same declarations to build the typed tree that users write.
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
        default: value where the user says nothing; a field without one is required.
        doc: one sentence with unit and meaning, shown by ``--help`` texts and errors.
        ge: least legal value. gt, le, lt: likewise.
        gt: exclusive lower bound.
        le: greatest legal value.
        lt: exclusive upper bound.
        searchable: whether a distribution may stand here in place of a value.
        when: sibling field → the values under which this field matters; a searched field is suggested
            only then. Several entries must all hold.
        default_factory: for mutable defaults.

    Returns:
        A ``dataclasses.field`` whose metadata holds what was declared here.
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


_HOLDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": ("≥", lambda value, bound: value >= bound),
    "gt": (">", lambda value, bound: value > bound),
    "le": ("≤", lambda value, bound: value <= bound),
    "lt": ("<", lambda value, bound: value < bound),
}


def bounds_text(metadata: Any) -> str:
    """The legal range in words, such as ``≥ 0, ≤ 1``; empty where there is none."""
    return ", ".join(f"{sign} {metadata[name]:g}" for name, (sign, _) in _HOLDS.items() if name in metadata)


def check_bounds(settings: Any) -> None:
    """Raise ValueError where a numeric field of a settings dataclass lies outside its declared range.

    Meant for ``__post_init__``; the message names the field, its value and the legal range.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for name, (_, holds) in _HOLDS.items():
            if name in field.metadata and not holds(value, field.metadata[name]):
                allowed = bounds_text(field.metadata)
                raise ValueError(f"{type(settings).__name__}.{field.name} = {value!r}; allowed: {allowed}")
