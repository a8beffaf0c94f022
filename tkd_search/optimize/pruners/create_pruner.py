"""Creates pruners by name or import path."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tkd_search.optimize.pruners.base import Pruner
from tkd_search.optimize.pruners.front_probability import FrontProbability
from tkd_search.optimize.pruners.never import Never
from tkd_search.optimize.pruners.single_objective import SingleObjective
from tkd_search.optimize.pruners.stratified import Stratified

PRUNERS: Mapping[str, Callable[..., Pruner]] = {
    "never": Never.build,
    "single_objective": SingleObjective.build,
    "stratified": Stratified.build,
    "front_probability": FrontProbability.build,
}


def create_pruner(
    name: str, *, full_budget: int, classes: int, options: Mapping[str, Any] | None = None
) -> Pruner:
    """Return a pruner by name or by import path ``package.module:Class``.

    A class is created by its ``build(full_budget=…, classes=…, **options)`` where it has one, else by its
    constructor with the same arguments.

    Raises:
        ValueError: unknown name, nothing or no pruner at the import path, or options that it does not have.
    """
    build = PRUNERS.get(name) or _imported(name)
    try:
        inspect.signature(build).bind(full_budget=full_budget, classes=classes, **(options or {}))
        pruner = build(full_budget=full_budget, classes=classes, **(options or {}))
    except Exception as error:  # a pruner at an import path may raise any
        raise ValueError(f"pruner {name}: {str(error) or type(error).__name__}") from error
    if not isinstance(pruner, Pruner):
        raise ValueError(f"pruner {name}: a {type(pruner).__name__}, without levels and decide")
    return pruner


def _imported(path: str) -> Callable[..., Pruner]:
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ValueError(f"unknown pruner {path!r}; known: {', '.join(PRUNERS)}, or package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise any while it is imported
        raise ValueError(f"pruner {path!r}: {error}") from error
    return getattr(found, "build", found)
