"""Conditions under which leaves have an effect, as declared by ``setting(…, when=…)``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tkd_search.config.sections import SECTIONS
from tkd_search.optimize.space import Condition, Distribution


def conditions(leaves: Mapping[str, Distribution]) -> tuple[Condition, ...]:
    """Return the conditions of searched leaves on other searched leaves."""
    return tuple(
        Condition(key, parent, values)
        for key in leaves
        for parent, values in _declared_parents(key)
        if parent in leaves
    )


def drop_unused(leaves: dict[str, Distribution], tree: dict[str, Any]) -> None:
    """Replace distributions that no trial uses by their default, for instance of γ where the method is KD."""
    while unused := [key for key in leaves if not _has_effect(key, leaves, tree)]:
        for key in unused:
            del leaves[key]
            section, field = key.split(".")[:2]  # all of a mapping goes with its first leaf
            tree[section][field] = fields_of(section)[field].default


def _has_effect(key: str, leaves: Mapping[str, Distribution], tree: Mapping[str, Any]) -> bool:
    """Return whether each parent of a leaf has, or can draw, a value under which the leaf has an effect."""
    section = tree[key.partition(".")[0]]
    return all(
        any(leaves[parent].contains(value) for value in values)
        if parent in leaves
        else section[parent.partition(".")[2]] in values
        for parent, values in _declared_parents(key)
    )


def _declared_parents(key: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the (dotted parent, values) under which a leaf has an effect."""
    section, name, *_ = key.split(".")
    fields = fields_of(section)
    when = fields[name].metadata.get("when") or {} if name in fields else {}
    return [(f"{section}.{parent}", tuple(values)) for parent, values in when.items()]


def is_entry(key: str) -> bool:
    """Return whether a dotted key is an entry of a mapping of free keys: ``student.ratios.layer4``."""
    section, _, rest = key.partition(".")
    name, _, entry = rest.partition(".")
    field = fields_of(section).get(name)
    return bool(entry) and field is not None and bool(field.metadata.get("leaves"))


def fields_of(section: str) -> dict[str, dataclasses.Field[Any]]:
    """Return the settings of a section by name; empty for an unknown section."""
    return {f.name: f for f in dataclasses.fields(SECTIONS[section])} if section in SECTIONS else {}
