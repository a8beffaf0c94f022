"""Creates Optuna's samplers by name or import path, and points of designs without a model.

A sampler is created for every suggestion, with a seed from the root seed and the trial's number. It has no
state beside the study, so a resumed search makes the same suggestions as an uninterrupted one.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from scipy.stats import qmc  # type: ignore[import-untyped]

from tkd_search.optimize.import_path import imported

SamplerFactory = Callable[[int], BaseSampler]
"""Seed → a new sampler."""

DESIGNS = ("random", "qmc")
"""Samplers without a model: uniform points, and a scrambled Sobol sequence."""

SAMPLERS: Mapping[str, Callable[..., BaseSampler]] = MappingProxyType(
    {
        "tpe": optuna.samplers.TPESampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "gp": optuna.samplers.GPSampler,
    }
)
# The proposer decides when to use a model, so the samplers' own random start is switched off.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tpe": {"n_startup_trials": 1, "n_ei_candidates": 24},
        "nsga2": {"population_size": 20},
        "gp": {"n_startup_trials": 1},
    }
)
_NO_EFFECT = ("constraints_func", "after_trial_strategy")
"""Arguments of Optuna's samplers without effect: Optuna uses them where it ends a trial itself."""


def make_sampler(name: str, options: Mapping[str, Any] | None = None) -> SamplerFactory:
    """Return a factory for a sampler by name or by import path ``package.module:Class``.

    Raises:
        ValueError: unknown name, nothing at the import path, or options that it does not have or use.
    """
    build = SAMPLERS.get(name) or imported("sampler", name, ["ehvi", *SAMPLERS, *DESIGNS])
    if not callable(build):
        raise ValueError(f"sampler {name!r}: a {type(build).__name__}, not a class")
    settings = {**_DEFAULTS.get(name, {}), **(options or {})}
    takes_seed = "seed" in inspect.signature(build).parameters
    _refuse_without_effect(name, settings, takes_seed)
    try:
        inspect.signature(build).bind(**({"seed": 0} if takes_seed else {}), **settings)
    except TypeError as error:
        raise ValueError(f"sampler {name}: {error}") from error

    def create(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = build(**({"seed": seed} if takes_seed else {}), **settings)
        if not isinstance(sampler, BaseSampler):  # Optuna replaces None by its default
            raise ValueError(f"sampler {name}: a {type(sampler).__name__}, not an Optuna sampler")
        return sampler

    return create


def _refuse_without_effect(name: str, settings: Mapping[str, Any], takes_seed: bool) -> None:
    if takes_seed and "seed" in settings:
        raise ValueError(f"sampler {name}: the seed is that of the experiment (--set seed=…)")
    for option in _NO_EFFECT if name in SAMPLERS else ():
        if option in settings:
            raise ValueError(f"sampler {name}: {option} has no effect in this search")


def design_point(name: str, number: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Return point ``number`` (from 0) of a design without a model, in [0, 1)^dimensions.

    Args:
        name: ``random`` or ``qmc``.
        number: index of the point; the same number, dimensions and seed always give the same point.
        dimensions: coordinates of a point.
        seed: seed of the design.
    """
    if dimensions == 0:
        return np.empty(0)
    if name == "random":
        return np.random.default_rng([seed, number]).random(dimensions)
    block = 2 ** max(5, math.ceil(math.log2(number + 1)))
    return _sobol(block, dimensions, seed)[number]


@lru_cache(maxsize=8)
def _sobol(count: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Return the first ``count`` points of a scrambled Sobol sequence; longer ones begin the same."""
    return np.asarray(qmc.Sobol(dimensions, scramble=True, rng=seed).random(count))
