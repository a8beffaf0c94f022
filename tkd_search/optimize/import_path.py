"""Import of samplers and pruners by path."""

import pkgutil
from collections.abc import Iterable
from typing import Any


def imported(kind: str, path: str, known: Iterable[str]) -> Any:
    """Return what ``package.module:Class`` names; errors have the ``kind`` and its ``known`` names.

    Raises:
        ValueError: the path has another form, or nothing can be imported from it.
    """
    if not path.partition(":")[2]:
        raise ValueError(f"unknown {kind} {path!r}; known: {', '.join(known)}, or package.module:Class")
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:  # a module may raise any while it is imported
        raise ValueError(f"{kind} {path!r}: {error}") from error
