"""Rules by name: those of this package, and any at an import path."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tkd_search.config import Config
from tkd_search.errors import UserError
from tkd_search.search.promise import Promise
from tkd_search.search.rungs import Never, RungRule, SingleObjective, Stratified

RULES: Mapping[str, Callable[..., RungRule]] = {
    "never": Never.build,
    "single_objective": SingleObjective.build,
    "stratified": Stratified.build,
    "promise": Promise.build,
}


def make_rule(
    name: str, *, full_budget: int, classes: int, options: Mapping[str, Any] | None = None
) -> RungRule:
    """A rule by name or by import path ``package.module:Class``.

    A class is built by its ``build(full_budget=…, classes=…, **options)`` where it has one, else called so.

    Raises:
        ValueError: unknown name, nothing or no rule at the import path, or options that it does not take.
    """
    build = RULES.get(name) or _imported(name)
    try:
        inspect.signature(build).bind(full_budget=full_budget, classes=classes, **(options or {}))
        rule = build(full_budget=full_budget, classes=classes, **(options or {}))
    except Exception as error:  # a rule at an import path may raise any
        raise ValueError(f"rule {name}: {str(error) or type(error).__name__}") from error
    if not isinstance(rule, RungRule):
        raise ValueError(f"rule {name}: a {type(rule).__name__}, without levels and decide")
    return rule


def rung_rule(config: Config, classes: int) -> RungRule:
    """The configured rule.

    Raises:
        UserError: no such rule, or options it does not take.
    """
    search, epochs = config.settings().search, config.settings().training.epochs
    try:
        return make_rule(search.rule, full_budget=epochs, classes=classes, options=search.rule_args)
    except ValueError as error:
        raise UserError(
            "search.rule",
            f"{search.rule!r} with search.rule_args {search.rule_args} ({error})",
            f"{', '.join(RULES)} or package.module:Class, and arguments that it has",
            "another rule has other arguments: --set search.rule_args={} takes its defaults",
        ) from error


def _imported(path: str) -> Callable[..., RungRule]:
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ValueError(f"unknown rule {path!r}; known: {', '.join(RULES)}, or package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise any while it is imported
        raise ValueError(f"rule {path!r}: {error}") from error
    return getattr(found, "build", found)
