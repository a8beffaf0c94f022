"""One YAML file is one experiment: a typed tree in which any leaf may be a value or a distribution.

The sections are the settings dataclasses of the packages (``tkd_search/*/settings.py``); their declared
types and ranges are checked by pydantic, unknown keys are refused with the nearest known one, and every
complaint is a :class:`~tkd_search.errors.UserError` that names the dotted key path.
"""

import copy
import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import yaml

from tkd_search.config_leaf import is_section, read_leaf
from tkd_search.data.settings import DataSettings
from tkd_search.data.storage import storage_uri
from tkd_search.distill.settings import BankSettings, MethodSettings, TrainSettings
from tkd_search.errors import UserError
from tkd_search.models.settings import BigModelSettings, StudentSettings
from tkd_search.quantity import MILLISECONDS
from tkd_search.search.settings import ResourceSettings, SearchSettings, TrackingSettings
from tkd_search.search.space import Condition, Distribution, Space
from tkd_search.setting import setting

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"
_NAME_PATTERN = "letters, digits, '.', '_' and '-', at most 80, not starting with '.'"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The leaves at the top of the file."""

    name: str | None = setting(None, doc="name of the run; default: the file's name", searchable=False)
    seed: int = setting(0, ge=0, le=2**31 - 1, doc="root seed of everything random", searchable=False)
    output: str = setting("runs", doc="folder that holds the runs", searchable=False)
    storage: str | None = setting(
        None,
        doc="s3://…, gs://… or a folder all nodes share: data, bank, checkpoints, and a copy of the run",
        searchable=False,
    )


SECTIONS: Mapping[str, type] = MappingProxyType(
    {
        "data": DataSettings,
        "big_model": BigModelSettings,
        "bank": BankSettings,
        "student": StudentSettings,
        "method": MethodSettings,
        "training": TrainSettings,
        "search": SearchSettings,
        "resources": ResourceSettings,
        "tracking": TrackingSettings,
    }
)
BUDGET_KEYS = frozenset({"search.trials", "search.max_hours", "search.max_epochs", "search.plateau"})
"""Raising these extends a finished search instead of contradicting it."""

FREE_KEYS = frozenset(
    {
        *(
            "name",
            "output",
            "data.path",
            "data.download",
            "data.memory_budget_mb",
            "resources.max_concurrent",
        ),
        *("tracking.uri", "tracking.system_metrics"),
    }
)
"""What may differ between a run and its resumption: where it runs, not what it computes."""


@dataclass(frozen=True)
class Settings:
    """One point of the space: what a trial needs, without a distribution in it."""

    seed: int
    data: DataSettings
    big_models: tuple[BigModelSettings, ...]
    bank: BankSettings
    student: StudentSettings
    method: MethodSettings
    training: TrainSettings
    search: SearchSettings
    resources: ResourceSettings
    tracking: TrackingSettings

    def big_model_precision(self, model: BigModelSettings) -> Literal["fp32", "bf16", "fp16"]:
        """The autocast precision in which a big model is trained: its own, or else the trials'."""
        return self.training.precision if model.precision == "auto" else model.precision


@dataclass(frozen=True)
class Config:
    """A checked experiment.

    Attributes:
        tree: the resolved tree as plain YAML values, defaults filled in, distributions as written.
        space: the searched leaves by dotted key, with their conditions.
    """

    tree: Mapping[str, Any]
    space: Space

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return str(self.tree["name"])

    @property
    def folder(self) -> Path:
        """``<output>/<name>``, where everything of this run is written."""
        return Path(self.tree["output"]) / self.name

    def settings(self, point: Mapping[str, Any] | None = None) -> Settings:
        """The plain settings at a point of the space.

        Args:
            point: dotted key → value; searched leaves that are missing (inactive ones) take their default.

        Raises:
            UserError: where a value of the point is out of range.
        """
        tree = _at_point(self.tree, self.space, point or {})
        parts: dict[str, Any] = {}
        for section, cls in SECTIONS.items():
            entries = tree[section] if isinstance(tree[section], list) else [tree[section]]
            built = tuple(_build(cls, entry, section) for entry in entries)
            parts["big_models" if section == "big_model" else section] = (
                built if section == "big_model" else built[0]
            )
        return Settings(seed=tree["seed"], **parts)

    def fixed(self, point: Mapping[str, Any]) -> "Config":
        """The same experiment with nothing searched: one trial, at the point or at the defaults."""
        tree = _at_point(self.tree, self.space, point)
        tree["search"] = {**tree["search"], "trials": 1, "enqueue": [], "rule": "never", "rule_args": {}}
        return parse_config(tree)

    def enqueued(self) -> tuple[dict[str, Any], ...]:
        """The configurations to try first, as far as this space allows.

        A leaf that is fixed (by ``--set``, say) or whose range excludes the value is left to the sampler;
        entries that become equal are tried once.
        """
        points: list[dict[str, Any]] = []
        for wish in self.settings().search.enqueue:
            point = {
                key: value
                for key, value in wish.items()
                if key in self.space.leaves and self.space.leaves[key].contains(value)
            }
            if point and point not in points:
                points.append(point)
        return tuple(points)

    def to_yaml(self) -> str:
        """The resolved tree, as a file that reproduces this experiment."""
        return yaml.safe_dump(copy.deepcopy(dict(self.tree)), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """Hash of all that decides the outcome (not budgets, paths or names)."""
        rest = {k: v for k, v in flatten(self.tree).items() if k not in BUDGET_KEYS | FREE_KEYS}
        return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, name: str | None = None
) -> Config:
    """Read, override and check an experiment file.

    Args:
        path: YAML file, or the name of one in ``configs/``; None is ``configs/digits.yaml``.
        overrides: ``key.path=value`` strings; the value is YAML.
        name: name of the run, above the file's own.

    Raises:
        UserError: missing file, bad YAML, unknown key, wrong type, impossible range, or a distribution
            where none may stand.
    """
    file = _find(path)
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(str(file), f"text that is not YAML ({error})", "one YAML mapping") from error
    if not isinstance(tree, dict):
        raise UserError(str(file), f"a {type(tree).__name__}", "a mapping of sections")
    for override in overrides:
        _override(tree, override)
    tree["name"] = name or tree.get("name") or file.stem
    return parse_config(tree)


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
    _settle_unused(leaves, resolved)
    config = Config(resolved, Space(leaves, _conditions(leaves)))
    config.settings()
    _check_together(config)
    return config


def with_overrides(config: Config, changes: Mapping[str, Any]) -> Config:
    """The experiment with leaves replaced: dotted key → value, or distribution as in a file.

    Raises:
        UserError: as :func:`parse_config`.
    """
    tree = copy.deepcopy(dict(config.tree))
    for key, value in changes.items():
        _put(tree, key, value)
    return parse_config(tree)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → leaf; a distribution counts as a leaf in its YAML form."""
    if isinstance(tree, Mapping) and tree and is_section(tree):
        return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}
    if isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        return {k: v for i, sub in enumerate(tree) for k, v in flatten(sub, f"{prefix}{i}.").items()}
    return {prefix[:-1]: tree}


def differences(old: Config, new: Config) -> list[str]:
    """What contradicts between a run's configuration and a new one for the same name, a line each.

    Raised budgets do not contradict; lowered ones do not either, they only end the search sooner.
    """
    before, after = flatten(old.tree), flatten(new.tree)
    keys = sorted((before.keys() | after.keys()) - BUDGET_KEYS - FREE_KEYS)
    return [
        f"{key}: was {before.get(key)!r}, is {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _find(path: str | Path | None) -> Path:
    if path is None:
        path = CONFIG_FOLDER / "digits.yaml"
    file = Path(path)
    if file.is_file():
        return file
    names = sorted(candidate.name for candidate in CONFIG_FOLDER.glob("*.yaml"))
    for candidate in (CONFIG_FOLDER / file.name, CONFIG_FOLDER / f"{file.name}.yaml"):
        if len(file.parts) <= 2 and file.parts[0] in ("configs", file.name) and candidate.is_file():
            return candidate
    nearest = difflib.get_close_matches(file.name, names, 1)
    hint = f"did you mean configs/{nearest[0]}?" if nearest else ""
    raise UserError("--config", f"no file {file}", f"a YAML file, or one of {', '.join(names)}", hint)


def _override(tree: dict[str, Any], text: str) -> None:
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
    _put(tree, key.strip(), parsed)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Write a value at a dotted key, making sections on the way."""
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
            nearest = difflib.get_close_matches(str(key), list(known), 1, cutoff=0.5)
            hint = f"did you mean {prefix}{nearest[0]}?" if nearest else ""
            raise UserError(f"{prefix}{key}", "an unknown key", ", ".join(sorted(known)), hint)


def _check_name(name: str) -> None:
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    if not name or len(name) > 80 or not plain or name.startswith("."):
        raise UserError("name", repr(name), _NAME_PATTERN)


def _conditions(leaves: Mapping[str, Distribution]) -> tuple[Condition, ...]:
    """The declared ``when`` of each searched leaf whose parent is searched too."""
    return tuple(
        Condition(key, parent, values)
        for key in leaves
        for parent, values in _declared_parents(key)
        if parent in leaves
    )


def _settle_unused(leaves: dict[str, Distribution], tree: dict[str, Any]) -> None:
    """Give leaves that no trial can use their default: a search over γ teaches nothing where all is KD."""
    for key in list(leaves):
        section, _, name = key.partition(".")
        parents = [(p.partition(".")[2], values) for p, values in _declared_parents(key) if p not in leaves]
        if any(tree[section][parent] not in values for parent, values in parents):
            del leaves[key]
            tree[section][name] = _fields(section)[name].default


def _declared_parents(key: str) -> list[tuple[str, tuple[Any, ...]]]:
    """(dotted parent, values) under which a leaf matters, as its section declares them."""
    section, _, name = key.partition(".")
    fields = _fields(section)
    when = fields[name].metadata.get("when") or {} if name in fields else {}
    return [(f"{section}.{parent}", tuple(values)) for parent, values in when.items()]


def _fields(section: str) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(SECTIONS[section])} if section in SECTIONS else {}


def _at_point(tree: Mapping[str, Any], space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with each distribution replaced by the point's value, or the declared default."""
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


def _build(cls: type, entry: Mapping[str, Any], prefix: str) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in names}
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(prefix, str(error), "see the range above") from error


def _check_together(config: Config) -> None:
    """What no single leaf can tell."""
    settings = config.settings()
    if config.tree["storage"] is not None:
        storage_uri(config.tree["storage"])
    try:
        _ = settings.search.latency_limit
    except ValueError as error:
        raise UserError(
            "search.max_latency",
            repr(settings.search.max_latency),
            f"a time above 0, {MILLISECONDS.allowed}, or null for no limit",
        ) from error
    workers, batch = settings.resources.workers_per_trial, settings.training.batch_size
    if batch // workers < 2:
        raise UserError(
            "training.batch_size",
            f"{batch} over {workers} workers",
            "at least 2 rows per worker (resources.workers_per_trial)",
        )
    known = flatten(config.tree)
    for i, point in enumerate(settings.search.enqueue):
        for key in point:
            if key not in known:
                nearest = difflib.get_close_matches(key, known, 1, cutoff=0.5)
                hint = f"did you mean {nearest[0]}?" if nearest else ""
                raise UserError(f"search.enqueue.{i}.{key}", "an unknown key", "dotted keys of leaves", hint)
