"""Experiment files: one YAML file is one experiment, whose leaves are values or distributions.

The sections are the settings dataclasses of the packages (:mod:`tkd_search.config.sections`). Pydantic checks
their declared types and ranges, unknown keys are refused with the nearest known one, and every error is a
:class:`~tkd_search.errors.UserError` that names the dotted key path.
"""

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkd_search.config.check_together import check_together
from tkd_search.config.conditions import conditions, drop_unused, fields_of
from tkd_search.config.leaf import read_leaf, read_value
from tkd_search.config.sections import SECTIONS, RunSettings, Settings
from tkd_search.config.tree import at_point, flatten, override, put
from tkd_search.config.yaml_text import read_yaml, yaml_text
from tkd_search.errors import UserError, did_you_mean
from tkd_search.fields import SettingError
from tkd_search.masking import masked_values
from tkd_search.optimize.space import Choice, Distribution, Space

CONFIG_FILE = "config.yaml"
"""In a run's folder: the experiment as it was last started."""
CONFIG_FOLDER = Path(__file__).parents[2] / "configs"
_NAME_PATTERN = "letters, digits, '.', '_' and '-', at most 80, not starting with '.'"


BUDGET_KEYS = frozenset({"search.trials", "search.max_hours", "search.max_epochs", "search.plateau"})
"""Keys that may be raised to extend a finished search."""

FREE_KEYS = frozenset(
    {
        *(
            "name",
            "output",
            "data.path",
            "data.unlabelled",
            "data.download",
            "data.memory_budget_mb",
            "data.disk_budget_gb",
            "resources.max_concurrent",
        ),
        *("tracking.uri", "tracking.system_metrics"),
    }
)
"""Keys that may differ between a run and its resumption: they decide where it runs, not what it computes."""


@dataclass(frozen=True)
class Config:
    """A checked experiment.

    Attributes:
        tree: the resolved tree as plain YAML values, defaults filled in, distributions as written.
        space: the searched leaves by dotted key, with their conditions.
        written: the tree with distributions that no trial uses, such as those of another method.
    """

    tree: Mapping[str, Any]
    space: Space
    written: Mapping[str, Any] = dataclasses.field(repr=False, compare=False)

    @property
    def storage(self) -> str | None:
        """Place that all nodes reach: ``storage``, or else ``TKD_STORAGE``, which a cluster's head has."""
        return self.tree["storage"] or os.environ.get("TKD_STORAGE") or None

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return str(self.tree["name"])

    @property
    def folder(self) -> Path:
        """``<output>/<name>``, the folder of the run's files."""
        return Path(self.tree["output"]) / self.name

    def settings(self, point: Mapping[str, Any] | None = None) -> Settings:
        """Return the plain settings at a point of the space.

        Args:
            point: dotted key → value; missing searched leaves (inactive ones) take their default.

        Raises:
            UserError: a value of the point is out of range.
        """
        tree = at_point(self.tree, self.space, point or {})
        parts: dict[str, Any] = {}
        for section, cls in SECTIONS.items():
            entries = tree[section] if isinstance(tree[section], list) else [tree[section]]
            built = tuple(_build(cls, entry, section) for entry in entries)
            parts["big_models" if section == "big_model" else section] = (
                built if section == "big_model" else built[0]
            )
        return Settings(seed=tree["seed"], metric=parts["search"].metric, **parts)

    def possible(self, key: str) -> tuple[Any, ...]:
        """Return the values that a leaf may take, by its dotted key; of a range its two ends."""
        leaf = self.space.leaves.get(key)
        if leaf is None:
            section, _, name = key.partition(".")
            return (self.tree[section][name],)
        return leaf.options if isinstance(leaf, Choice) else (leaf.low, leaf.high)

    def fixed(self, point: Mapping[str, Any]) -> "Config":
        """Return the same experiment with nothing searched: one trial, at the point or at the defaults."""
        tree = at_point(self.tree, self.space, point)
        tree["search"] = {**tree["search"], "trials": 1, "enqueue": [], "pruner": "never", "pruner_args": {}}
        return parse_config(tree)

    def enqueued(self) -> tuple[dict[str, Any], ...]:
        """Return the configurations to try first, restricted to this space.

        A fixed leaf keeps its value. A value outside the range of its leaf is left to the sampler (see
        :func:`~tkd_search.config.resolve.left_to_sampler`). Equal entries are tried once.
        """
        points: list[dict[str, Any]] = []
        for entry in self.settings().search.enqueue:
            point = {
                key: value
                for key, value in entry.items()
                if key in self.space.leaves and self.space.leaves[key].contains(value)
            }
            if point and point not in points:
                points.append(point)
        return tuple(points)

    def to_yaml(self) -> str:
        """Return the resolved tree as the text of a file that reproduces this experiment, secrets masked."""
        return yaml_text(masked_values(dict(self.tree)))

    def digest(self) -> str:
        """Return a hash of all that decides the outcome (not budgets, paths or names)."""
        rest = {k: v for k, v in flatten(self.tree).items() if k not in BUDGET_KEYS | FREE_KEYS}
        return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, name: str | None = None
) -> Config:
    """Read, override and check an experiment file.

    Args:
        path: YAML file, or the name of one in ``configs/``; None is ``configs/digits.yaml``.
        overrides: ``key.path=value`` strings; the value is YAML.
        name: name of the run, in place of the file's.

    Raises:
        UserError: missing file, bad YAML, unknown key, wrong type, illegal range, or a distribution where
            none is allowed.
    """
    file = _find(path)
    tree = read_yaml(file)
    for text in overrides:
        override(tree, text)
    tree["name"] = name or (file.stem if tree.get("name") is None else tree["name"])
    return parse_config(tree)


def stored_config(folder: Path) -> Config:
    """Return the configuration that a run wrote into its folder.

    Raises:
        UserError: it is damaged, or another version's.
    """
    hint = f"restore it, or remove {folder} and start again, or choose another --name"
    file = folder / CONFIG_FILE
    try:
        return parse_config(read_yaml(file, hint))
    except UserError as error:
        where = error.where if error.where == str(file) else f"{file}: {error.where}"
        raise UserError(where, error.found, error.allowed, hint) from error


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Check a tree of plain values and fill in the defaults; see :func:`load_config` for errors."""
    tops = {field.name for field in dataclasses.fields(RunSettings)}
    resolved: dict[str, Any] = {}
    leaves: dict[str, Distribution] = {}
    _refuse_unknown(tree, tops | set(SECTIONS), "")
    for key, value in _checked(RunSettings, {k: v for k, v in tree.items() if k in tops}, "", leaves):
        resolved[key] = value
    _check_name(resolved["name"])
    for section, cls in SECTIONS.items():
        written = tree.get(section)
        if section == "big_model" and isinstance(written, list):
            if not written:
                raise UserError(section, "an empty list", "a mapping, or a list of at least one mapping")
            resolved[section] = [
                dict(_checked(cls, entry, f"{section}.{i}.", leaves)) for i, entry in enumerate(written)
            ]
        else:
            resolved[section] = dict(_checked(cls, written, f"{section}.", leaves))
    resolved["search"]["enqueue"] = _enqueued(resolved["search"]["enqueue"])
    written = copy.deepcopy(resolved)
    drop_unused(leaves, resolved)
    if not leaves and "trials" not in (tree.get("search") or {}):
        resolved["search"]["trials"] = 1  # more trials would only select the luckiest seed
    config = Config(resolved, Space(leaves, conditions(leaves)), written)
    config.settings()
    check_together(config)
    return config


def with_overrides(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return the experiment with leaves replaced: dotted key → value, or distribution as in a file.

    Raises:
        UserError: as :func:`parse_config`.
    """
    tree = copy.deepcopy(dict(config.written))
    for key, value in changes.items():
        put(tree, key, value)
    return parse_config(tree)


def differences(old: Config, new: Config) -> list[str]:
    """Return the differences between a run's configuration and a new one for the same name, a line each.

    Budgets are not compared: a raised one extends the search, a lowered one ends it sooner.
    """
    before, after = masked_values(flatten(old.tree)), masked_values(flatten(new.tree))
    keys = sorted((before.keys() | after.keys()) - BUDGET_KEYS - FREE_KEYS)
    return [
        f"{key}: was {before.get(key)!r}, is {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _find(path: str | Path | None) -> Path:
    if path is None:
        path = CONFIG_FOLDER / "digits.yaml"
    file = Path(os.path.expanduser(path))
    if file.is_file():
        return file
    names = sorted(candidate.name for candidate in CONFIG_FOLDER.glob("*.yaml"))
    for candidate in (CONFIG_FOLDER / file.name, CONFIG_FOLDER / f"{file.name}.yaml"):
        if 0 < len(file.parts) <= 2 and file.parts[0] in ("configs", file.name) and candidate.is_file():
            return candidate
    hint = did_you_mean(file.name, names, "configs/")
    raise UserError("--config", f"no file {file}", f"a YAML file, or one of {', '.join(names)}", hint)


def _checked(
    cls: type, written: Any, prefix: str, leaves: dict[str, Distribution]
) -> Iterator[tuple[str, Any]]:
    """Yield (key, plain value) for every field of a section, filling ``leaves`` with distributions."""
    written = {} if written is None else written
    if not isinstance(written, Mapping):
        raise UserError(prefix[:-1], f"{written!r}", "a mapping of settings")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    _refuse_unknown(written, fields, prefix)
    for name, field in fields.items():
        yield name, read_leaf(cls, field, f"{prefix}{name}", written, leaves)


def _refuse_unknown(written: Mapping[str, Any], known: Any, prefix: str) -> None:
    for key in written:
        if key not in known:
            hint = did_you_mean(str(key), known, prefix)
            raise UserError(f"{prefix}{key}", "an unknown key", ", ".join(sorted(known)), hint)


def _enqueued(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the configurations to try first, with values of the leaves' types."""

    def value_of(number: int, key: str, value: Any) -> Any:
        section, _, name = key.partition(".")
        if name not in fields_of(section):
            return value
        return read_value(SECTIONS[section], name, f"search.enqueue.{number}.{key}", value)

    return [{key: value_of(i, key, value) for key, value in point.items()} for i, point in enumerate(points)]


def _check_name(name: str | None) -> None:
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in name or "")
    if not name or len(name) > 80 or not plain or name.startswith("."):
        raise UserError("name", repr(name), _NAME_PATTERN)


def _build(cls: type, entry: Mapping[str, Any], prefix: str) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in names}
    try:
        return cls(**values)
    except SettingError as error:
        raise UserError(f"{prefix}.{error.field}", error.found, error.allowed) from error
