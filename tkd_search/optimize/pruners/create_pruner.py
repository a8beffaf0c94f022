"""Creates pruners by name or import path."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tkd_search.optimize.import_path import imported
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
    found = PRUNERS.get(name) or imported("pruner", name, PRUNERS)
    build = getattr(found, "build", found)
    try:
        inspect.signature(build).bind(full_budget=full_budget, classes=classes, **(options or {}))
        pruner = build(full_budget=full_budget, classes=classes, **(options or {}))
    except Exception as error:  # a pruner at an import path may raise any
        raise ValueError(f"pruner {name}: {str(error) or type(error).__name__}") from error
    if not isinstance(pruner, Pruner):
        raise ValueError(f"pruner {name}: a {type(pruner).__name__}, without levels and decide")
    return pruner
