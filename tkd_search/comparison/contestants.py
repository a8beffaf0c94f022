"""Who takes part in a comparison, and the experiment that each of them is."""

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import yaml

from tkd_search.config.experiment_file import Config, parse_config, with_overrides
from tkd_search.distill.method_settings import MethodName
from tkd_search.errors import UserError
from tkd_search.optimize.space import Distribution

METHODS: tuple[str, ...] = get_args(MethodName)


@dataclass(frozen=True)
class Contestant:
    """One way of teaching.

    Attributes:
        label: its name in tables and folders.
        changes: dotted key → value (or distribution, as in a file) laid over the experiment.
        winner_of: of an ablation alone: the contestant whose winner it takes over, with ``changes`` on top;
            it has no search of its own.
    """

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    winner_of: str | None = None


def parse_contestants(
    methods: Sequence[str], variants: Sequence[str] = (), ablations: Sequence[str] = ()
) -> tuple[Contestant, ...]:
    """The contestants that the command line names.

    Args:
        methods: names of methods, each searched in the experiment's space with ``method.name`` fixed.
        variants: ``LABEL:key=value;key=value``, each searched with these leaves set.
        ablations: ``LABEL:key=value;…``, each the winner of ``tkd`` with these leaves set, not searched.

    Raises:
        UserError: an unknown method, a label twice, a text of another form, or ablations without ``tkd``.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError("--methods", repr(name), ", ".join(METHODS))
    named = [Contestant(name, {"method.name": name}) for name in methods]
    searched = [*named, *(Contestant(*_labelled("--variant", text)) for text in variants)]
    if ablations and "tkd" not in methods:
        raise UserError("--ablate", "no contestant tkd to take apart", "ablations beside --methods …,tkd")
    parts = [Contestant(*_labelled("--ablate", text), "tkd") for text in ablations]
    everyone = (*searched, *parts)
    labels = [contestant.label for contestant in everyone]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError("--methods, --variant, --ablate", f"the label {twice[0]!r} twice", "each label once")
    return everyone


def _labelled(option: str, text: str) -> tuple[str, dict[str, Any]]:
    form = "LABEL:key=value;key=value, for instance 'uniform:method.selection=uniform'"
    label, colon, rest = text.partition(":")
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in label)
    if not colon or not label or not plain or label.startswith("."):
        raise UserError(option, repr(text), form)
    changes: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(";"))):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{option} {label}", repr(part), form)
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {label}", repr(value), "a YAML value") from error
    return label, changes


def search_config(config: Config, contestant: Contestant, trials: int) -> Config:
    """The search of one contestant: the experiment with its changes, at the common budget.

    Raises:
        UserError: a change does not fit, the student's size is searched (contestants must be equal in it), or
            it is not the experiment's.
    """
    changed = with_overrides(config, contestant.changes)
    if sized := _sized(changed):
        raise UserError(
            sized[0],
            "a distribution",
            "one size for all contestants: a comparison is one of methods, not of sizes",
            f"fix it, for instance --set {_one_of(sized[0], changed.space.leaves[sized[0]])}",
        )
    # An experiment that searches the size has none of its own: see check_equal_students.
    if not _sized(config):
        _check_same_student(contestant.label, changed, config)
    tree = copy.deepcopy(dict(changed.tree))
    tree["name"] = f"{config.name}-{contestant.label}"
    tree["search"] = {**tree["search"], "trials": trials}
    return parse_config(tree)


def check_equal_students(configs: Mapping[str, Config]) -> None:
    """Refuse contestants of different sizes, where each has fixed a size that the experiment searches.

    Args:
        configs: label → the contestant's search.

    Raises:
        UserError: a student that is not the first contestant's.
    """
    first = next(iter(configs.values()))
    for label, config in configs.items():
        _check_same_student(label, config, first)


def _sized(config: Config) -> list[str]:
    return [key for key in config.space.leaves if key.startswith("student.")]


def _one_of(key: str, distribution: Distribution) -> str:
    """``key=value`` as a shell takes it, with a value in the middle of what is searched."""
    value = distribution.at(0.5)
    if isinstance(value, float) and distribution.contains(short := float(f"{value:.2g}")):
        value = short
    text = value if isinstance(value, str) else json.dumps(value)
    return shlex.quote(f"{key}={text}")


def _check_same_student(label: str, config: Config, other: Config) -> None:
    mine, theirs = asdict(config.settings().student), asdict(other.settings().student)
    if changed := [key for key in mine if mine[key] != theirs[key]]:
        raise UserError(
            f"{label}: student.{changed[0]}",
            repr(mine[changed[0]]),
            f"{theirs[changed[0]]!r}, as the others have: contestants must be equal in size",
            f"change it for all: --set student.{changed[0]}=…",
        )


def retrained_config(
    config: Config, contestant: Contestant, searched: Config, point: Mapping[str, Any], seed: int
) -> Config:
    """One training of a winner on a fresh seed, and on a fresh subset where the data are limited.

    Args:
        config: the experiment.
        contestant: whose training it is.
        searched: the search that the winner comes from.
        point: the winner's point of that search's space.
        seed: which fresh subset (``data.limit_seed``) is drawn.

    Raises:
        UserError: an ablation with a distribution, or with another student.
    """
    fixed = searched.fixed(point)
    changes = dict(contestant.changes) if contestant.winner_of else {}
    if config.settings().data.train_limit is not None:
        changes["data.limit_seed"] = seed
    retrained = with_overrides(fixed, changes)
    for key in retrained.space.leaves:
        raise UserError(
            f"{contestant.label}: {key}", "a distribution", "a value: an ablation is not searched"
        )
    _check_same_student(contestant.label, retrained, fixed)
    return retrained


def fresh_seeds(config: Config, count: int) -> tuple[int, ...]:
    """Seeds that no search has used."""
    first = 1000 + config.settings().seed
    return tuple(range(first, first + count))
