"""The tree of an experiment as plain YAML values: reading and writing its leaves by dotted key."""

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from tkd_search.config.leaf import is_section
from tkd_search.config.yaml_text import parse_yaml
from tkd_search.errors import UserError
from tkd_search.optimize.space import Space

_NAMES_WITH_DOTS = "student.ratios."
"""Below this key stand names of layers, such as ``features.3``."""


def key_parts(key: str) -> list[str]:
    """Return the sections and the leaf that a dotted key names."""
    if key.startswith(_NAMES_WITH_DOTS):
        return [*_NAMES_WITH_DOTS[:-1].split("."), key.removeprefix(_NAMES_WITH_DOTS)]
    return key.split(".")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key → leaf; a distribution is one leaf, in its YAML form."""
    if isinstance(tree, Mapping) and tree and is_section(tree):
        return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}
    if isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        return {k: v for i, sub in enumerate(tree) for k, v in flatten(sub, f"{prefix}{i}.").items()}
    return {prefix[:-1]: tree}


def override(tree: dict[str, Any], text: str) -> None:
    """Write ``key.path=value`` into a tree; the value is YAML.

    Raises:
        UserError: the text has another form, or :func:`put` refuses the key.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise UserError("--set", repr(text), "key.path=value, for instance --set method.k=3")
    try:
        parsed = parse_yaml(value)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(
            f"--set {key}", repr(value), "a YAML value, for instance 3, [1, 2] or {float: [0, 1]}"
        ) from error
    put(tree, key.strip(), parsed)


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Write a value at a dotted key, and create missing sections. Items of lists have positions as keys.

    Raises:
        UserError: the key leads through a value, or to a position that a list does not have.
    """
    *parents, last = key_parts(key)
    node: Any = tree
    for depth, part in enumerate(parents, start=1):
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[_index(node, part, key)]
        if not isinstance(node, dict | list):
            raise UserError(f"--set {key}", f"a value at {'.'.join(parents[:depth])}", "a section or a list")
    node[_index(node, last, key)] = value


def _index(node: dict[str, Any] | list[Any], part: str, key: str) -> str | int:
    """Return one part of a dotted key as the index of a section or of a list."""
    if isinstance(node, dict):
        return part
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    allowed = f"a position from 0 to {len(node) - 1}" if node else "nothing: the list is empty"
    raise UserError(f"--set {key}", repr(part), allowed)


def at_point(tree: Mapping[str, Any], space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with the point's values in place of distributions.

    A distribution without a value in the point is left out, so that its default applies.

    Raises:
        UserError: the point has a value for a leaf that is not searched.
    """
    plain = copy.deepcopy(dict(tree))
    for key in space.leaves:
        *parents, leaf = key_parts(key)
        node = plain
        for parent in parents:
            node = node[parent]
        if key in point:
            node[leaf] = point[key]
        else:
            node.pop(leaf)
    unknown = set(point) - set(space.leaves)
    if unknown:
        raise UserError(
            sorted(unknown)[0], "a value for a leaf that is not searched", ", ".join(space.leaves)
        )
    return plain
