"""From a point of the search space to the settings that are run, and their short description."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tkd_search.config.conditions import is_entry
from tkd_search.config.experiment_file import Config
from tkd_search.config.sections import Settings
from tkd_search.config.tree import flatten
from tkd_search.distill.method_needs import TERM_WEIGHTS, needs_of
from tkd_search.distill.method_settings import BankSettings, CellsName, MethodSettings
from tkd_search.models.architectures.families import family_of
from tkd_search.models.architectures.timm_networks import is_timm
from tkd_search.models.model_settings import CUT, BigModelSettings, StudentSettings
from tkd_search.models.pretrained import starts_pretrained
from tkd_search.models.weights import weights_file
from tkd_search.optimize.space import Choice

LOCAL = ("method.local", "method.local_feature")
"""Weights of loss terms that read the cells of whatever taps are selected."""


def resolve(config: Config, point: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that workers run, with absolute paths: they have another working directory.

    Args:
        config: the experiment.
        point: dotted key → value; searched leaves that it lacks take their default.

    Raises:
        UserError: a value of the point is out of range.
    """
    settings = config.settings(point)
    big_models = tuple(map(_with_absolute_path, settings.big_models))
    return replace(settings, bank=bank_settings(config), big_models=big_models)


def bank_settings(config: Config) -> BankSettings:
    """Return the settings of the bank, without taps or cells that no method of the search reads."""
    weights = {name: max(config.possible(f"method.{name}")) for name in TERM_WEIGHTS}
    needs = [needs_of(MethodSettings(name=name, **weights)) for name in config.possible("method.name")]
    cells, bank = any(need.cells for need in needs), config.settings().bank
    used = cells or any(need.features for need in needs)
    local = "tkd" in config.possible("method.name") and any(max(config.possible(key)) > 0 for key in LOCAL)
    kept: CellsName = bank.cells if bank.cells != "auto" else "all" if local else "stages"
    return replace(bank, taps=bank.taps if used else (), grid=bank.grid if cells else 0, cells=kept)


def _with_absolute_path(model: BigModelSettings) -> BigModelSettings:
    file = weights_file(model.weights or "")
    return model if file is None else replace(model, weights=str(file))


def clip_k(config: Config, point: Mapping[str, Any], taps: int) -> dict[str, Any]:
    """Return the point with ``method.k`` limited to the number of candidates, taps × masks.

    The result stays in the search space: a choice becomes its largest option within the limit. Where every
    value of the space is above the limit, the least is returned; the selection of teachers then takes all
    candidates.
    """
    most = taps * config.settings(point).method.masks
    if point.get("method.k", 0) <= most:
        return dict(point)
    leaf = config.space.leaves["method.k"]
    if isinstance(leaf, Choice):
        k: Any = max((option for option in leaf.options if option <= most), default=min(leaf.options))  # type: ignore[type-var,operator]
    else:
        k = max(int(leaf.low), most)
    return {**point, "method.k": k}


def left_to_sampler(config: Config) -> str:
    """Return a line with the values in ``search.enqueue`` that are outside the space; '' without any.

    An entry of ``student.args`` or ``student.ratios`` that this experiment lacks is outside too.
    """
    leaves, known = config.space.leaves, flatten(config.tree)
    outside = [
        f"search.enqueue.{number}.{key} = {value!r} ({f'searched: {leaf}' if leaf else f'no {key} here'})"
        for number, entry in enumerate(config.settings().search.enqueue)
        for key, value in entry.items()
        if ((leaf := leaves.get(key)) and not leaf.contains(value)) or (is_entry(key) and key not in known)
    ]
    return f"outside the searched space, left to the sampler: {'; '.join(outside)}" if outside else ""


def describe_student(settings: Settings) -> str:
    """Return a short readable name: ``mobilenet_v2 ×0.25``, ``plain_cnn widths=[32, 64] int8``."""
    student = settings.student
    own = ":" in student.name  # a function of the user's, which may have neither width nor depth
    sized_by_args = own or is_timm(student.name)
    family = family_of(student.name)
    wide = student.width != StudentSettings().width if own else family.width
    words = [student.name.rsplit(":", 1)[-1]]
    words += [f"×{student.width:.3g}"] if wide else []
    words += [f"d{student.depth:g}"] if student.depth != 1 and (own or family.depth) else []
    args = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in student.args.items()}
    words += [f"{name}={value}" for name, value in args.items()] if sized_by_args else []
    words += _ratio_words(student.ratios) if student.name == CUT else []
    words += [f"{student.input_size}px"] if student.input_size else []
    words += ["pretrained"] if starts_pretrained(student.name, student.weights) else []
    words += [student.format] if student.format != StudentSettings().format else []
    return " ".join(words)


def _ratio_words(ratios: list[float] | Mapping[str, float] | None) -> list[str]:
    """Return the shares of a cut for people: ``layer4 ×0.3``, or ``×[0.5, 0.2]`` of stages."""
    if isinstance(ratios, Mapping):
        return [f"{layer} ×{share:.3g}" for layer, share in ratios.items()]
    return [f"×[{', '.join(f'{share:.3g}' for share in ratios)}]"] if ratios else []
