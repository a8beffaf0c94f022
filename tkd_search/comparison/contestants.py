"""The contestants of a comparison, and the configuration of each one's search and trainings."""

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import yaml

from tkd_search.config.experiment_file import Config, parse_config, with_overrides
from tkd_search.config.yaml_text import parse_yaml
from tkd_search.distill.method_settings import MethodName
from tkd_search.errors import UserError
from tkd_search.optimize.space import Distribution

METHODS: tuple[str, ...] = get_args(MethodName)


@dataclass(frozen=True)
class Contestant:
    """One method, or one variant of a method.

    Attributes:
        label: its name in tables and file names.
        changes: dotted key → value (or distribution, as in a file) that replaces the experiment's.
        winner_of: for an ablation, the contestant whose winner it changes; it has no search of its own.
    """

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    winner_of: str | None = None


def parse_contestants(
    methods: Sequence[str], variants: Sequence[str] = (), ablations: Sequence[str] = ()
) -> tuple[Contestant, ...]:
    """Return the contestants that the command line names.

    Args:
        methods: names of methods, each searched in the experiment's space with ``method.name`` fixed.
        variants: ``LABEL:key=value;key=value``, each searched with these leaves set.
        ablations: ``LABEL:key=value;…``, each the winner of ``tkd`` with these leaves set, not searched.

    Raises:
        UserError: an unknown method, a repeated label, a text of another form, or ablations without ``tkd``.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError("--methods", repr(name), ", ".join(METHODS))
    named = [Contestant(name, {"method.name": name}) for name in methods]
    searched = [*named, *(Contestant(*_labelled("--variant", text)) for text in variants)]
    if ablations and "tkd" not in methods:
        raise UserError("--ablate", "no contestant tkd to change", "ablations together with --methods …,tkd")
    parts = [Contestant(*_labelled("--ablate", text), "tkd") for text in ablations]
    contestants = (*searched, *parts)
    labels = [contestant.label for contestant in contestants]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(
            "--methods, --variant, --ablate", f"the label {repeated[0]!r} twice", "each label once"
        )
    return contestants


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
            changes[key.strip()] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {label}", repr(value), "a YAML value") from error
    return label, changes


def search_config(config: Config, contestant: Contestant, trials: int) -> Config:
    """Return the search of one contestant: the experiment with its changes, at the common budget.

    Raises:
        UserError: a change is not valid, or the student's size is searched or differs from the experiment's:
            contestants must be equal in size.
    """
    changed = with_overrides(config, contestant.changes)
    if sizes := _searched_sizes(changed):
        raise UserError(
            sizes[0],
            "a distribution",
            "one size for all contestants: methods are compared, not sizes",
            f"fix it, for instance --set {_example(sizes[0], changed.space.leaves[sizes[0]])}",
        )
    # An experiment that searches the size fixes none: see check_equal_students.
    if not _searched_sizes(config):
        _check_same_student(contestant.label, changed, config)
    tree = copy.deepcopy(dict(changed.tree))
    tree["name"] = f"{config.name}-{contestant.label}"
    # Hours would also count F's training, which the first contestant alone pays for.
    tree["search"] |= {"trials": trials, "max_hours": None, "max_epochs": None, "plateau": None}
    return parse_config(tree)


def check_equal_trials(begun: Mapping[str, int], trials: int) -> None:
    """Refuse a number of trials below that of a contestant's earlier search, finished or not.

    Args:
        begun: label → number of trials that the contestant's search has.
        trials: of every search that is left.

    Raises:
        UserError: a search has more trials.
    """
    for label, count in begun.items():
        if count > trials:
            raise UserError(
                "--trials",
                f"{trials}, while the search of {label} has {count}",
                "the same number for all contestants: the comparison is at equal budgets",
                f"--trials {count}, or another --name",
            )


def check_equal_students(configs: Mapping[str, Config]) -> None:
    """Refuse contestants of different sizes, if each of them fixes a size that the experiment searches.

    Args:
        configs: label → the contestant's search.

    Raises:
        UserError: a student differs from the first contestant's.
    """
    first = next(iter(configs.values()))
    for label, config in configs.items():
        _check_same_student(label, config, first)


def _searched_sizes(config: Config) -> list[str]:
    return [key for key in config.space.leaves if key.startswith("student.")]


def _example(key: str, distribution: Distribution) -> str:
    """Return ``key=value``, quoted for a shell, with a value in the middle of the distribution."""
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
    """Return one training of a winner on a fresh seed, on a fresh subset if the training images are limited.

    Args:
        config: the experiment.
        contestant: the contestant that is trained.
        searched: the search that the winner comes from.
        point: the winner's point of that search's space.
        seed: ``data.limit_seed``, which selects the subset.

    Raises:
        UserError: an ablation has a distribution, or another student.
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
