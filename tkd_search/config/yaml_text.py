"""YAML as experiment files use it: repeated keys are errors, and numbers are those of YAML 1.2.

PyYAML keeps the last of two equal keys, reads ``1:30`` as 90 and ``1e-4`` as a text.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tkd_search.errors import UserError

_DIGITS = "[0-9](?:_?[0-9])*"
_FLOAT = re.compile(
    rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(rf"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|{_DIGITS})$")
_HINT = "save it as UTF-8, indent with spaces, and write texts with backslashes in single quotes"
_MOST_PARTS = 100_000
_OWN = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}


class _Loader(yaml.SafeLoader):
    """Safe loader without PyYAML's numbers and dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own declaration
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OWN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes every text that either loader would read as a number.

    Paths are written as texts, NumPy's numbers as numbers.
    """


_Dumper.add_multi_representer(Path, lambda dumper, path: dumper.represent_str(str(path)))
for _kind in (np.integer, np.floating, np.bool_):
    _Dumper.add_multi_representer(_kind, lambda dumper, number: dumper.represent_data(number.item()))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    return int(text, 0 if text.lstrip("+-")[:2] in ("0o", "0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str) -> Any:
    """Return the plain value of one YAML document.

    Raises:
        YAMLError: the text is no YAML, a key occurs twice, an alias lies within what it names, or aliases
            repeat so much that the value has over 100,000 parts.
    """
    loader = _Loader(text)  # a subclass of the safe loader
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _parts_of(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _parts_of(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return how many scalars and sections a node has when its aliases are written out.

    Args:
        node: a node of the document.
        counts: results so far by the node's id; 0 for a node that is being counted.

    Raises:
        MarkedYAMLError: see :func:`parse_yaml`.
    """
    if id(node) in counts:
        if not counts[id(node)]:
            raise yaml.composer.ComposerError(
                None, None, "found an alias within what it names", node.start_mark
            )
        return counts[id(node)]
    counts[id(node)] = 0
    children = () if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [part for pair in children for part in pair]
    count = 1 + sum(_parts_of(child, counts) for child in children)
    if count > _MOST_PARTS:
        raise yaml.composer.ComposerError(None, None, "found aliases that repeat too much", node.start_mark)
    counts[id(node)] = count
    return count


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise ConstructorError where a key occurs twice; before construction, which copies merged keys in."""
    seen = set()
    for key_node, _ in node.value:
        key = (key_node.tag, key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node))
        if key in seen:
            problem = f"found {key_node.value!r} twice in one section"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)


def yaml_text(value: Any) -> str:
    """Return plain values as the text of a YAML file, which :func:`parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, hint: str = "") -> dict[str, Any]:
    """Return the mapping in a YAML file, {} for an empty one.

    Args:
        path: the file, in UTF-8.
        hint: what to do about a damaged file.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        found = f"text that is not YAML ({error})"
        raise UserError(str(path), found, "one YAML mapping", hint or _HINT) from error
    except OSError as error:
        raise UserError(str(path), error.strerror or str(error), "a file that can be read", hint) from error
    if not isinstance(tree, dict | None):
        raise UserError(str(path), f"a {type(tree).__name__}", "a mapping of sections", hint)
    return tree or {}
