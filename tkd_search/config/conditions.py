"""Which leaves matter when, as their sections declare it (``setting(…, when=…)``)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tkd_search.config.sections import SECTIONS
from tkd_search.optimize.space import Condition, Distribution


def conditions(leaves: Mapping[str, Distribution]) -> tuple[Condition, ...]:
    """The declared ``when`` of each searched leaf whose parent is searched too."""
    return tuple(
        Condition(key, parent, values)
        for key in leaves
        for parent, values in _declared_parents(key)
        if parent in leaves
    )


def settle_unused(leaves: dict[str, Distribution], tree: dict[str, Any]) -> None:
    """Give leaves that no trial can use their default: a search over γ teaches nothing where all is KD."""
    for key in list(leaves):
        section, _, name = key.partition(".")
        parents = [(p.partition(".")[2], values) for p, values in _declared_parents(key) if p not in leaves]
        if any(tree[section][parent] not in values for parent, values in parents):
            del leaves[key]
            tree[section][name] = fields_of(section)[name].default


def _declared_parents(key: str) -> list[tuple[str, tuple[Any, ...]]]:
    """(dotted parent, values) under which a leaf matters, as its section declares them."""
    section, _, name = key.partition(".")
    fields = fields_of(section)
    when = fields[name].metadata.get("when") or {} if name in fields else {}
    return [(f"{section}.{parent}", tuple(values)) for parent, values in when.items()]


def fields_of(section: str) -> dict[str, dataclasses.Field[Any]]:
    """The declared settings of a section by name; empty where there is no such section."""
    return {f.name: f for f in dataclasses.fields(SECTIONS[section])} if section in SECTIONS else {}
