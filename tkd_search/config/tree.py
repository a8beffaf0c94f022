"""The tree of an experiment as plain YAML values: its leaves by dotted key, read and written."""

import copy
from collections.abc import Mapping
from typing import Any, cast

import yaml

from tkd_search.config.leaf import is_section
from tkd_search.errors import UserError
from tkd_search.optimize.space import Space


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → leaf; a distribution counts as a leaf in its YAML form."""
    if isinstance(tree, Mapping) and tree and is_section(tree):
        return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}
    if isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        return {k: v for i, sub in enumerate(tree) for k, v in flatten(sub, f"{prefix}{i}.").items()}
    return {prefix[:-1]: tree}


def override(tree: dict[str, Any], text: str) -> None:
    """Write ``key.path=value`` into a tree; the value is YAML.

    Raises:
        UserError: a text of another form, or a key through something that is no section.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError("--set", repr(text), "key.path=value, for instance --set method.k=3")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(
            f"--set {key}", repr(value), "a YAML value, for instance 3, [1, 2] or {float: [0, 1]}"
        ) from error
    put(tree, key.strip(), parsed)


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Write a value at a dotted key, making sections on the way.

    Raises:
        UserError: the key leads through a value, or past the end of a list.
    """
    parts, node = key.split("."), cast(Any, tree)
    for i, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            node = _item(node, part, key)
            continue
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            raise UserError(f"--set {key}", f"a value at {'.'.join(parts[: i + 1])}", "a section")
    if isinstance(node, list):
        node[node.index(_item(node, parts[-1], key))] = value
    else:
        node[parts[-1]] = value


def _item(node: list[Any], part: str, key: str) -> Any:
    if part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise UserError(f"--set {key}", repr(part), f"a position from 0 to {len(node) - 1}")


def at_point(tree: Mapping[str, Any], space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with each distribution replaced by the point's value, or left out for its default.

    Raises:
        UserError: the point has a value for a leaf that is not searched.
    """
    plain = copy.deepcopy(dict(tree))
    for key in space.leaves:
        *parents, leaf = key.split(".")
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
