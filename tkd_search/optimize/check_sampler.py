"""Tries a sampler before a search starts: many refuse a space only at a suggestion."""

import dataclasses
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
import torch

from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import RungRecord
from tkd_search.optimize.samplers.create_sampler import DESIGNS
from tkd_search.optimize.samplers.ehvi import EHVISettings
from tkd_search.optimize.space import Space
from tkd_search.optimize.study import SearchStudy

_SUGGESTIONS: Mapping[str, int] = MappingProxyType({"ehvi": 5, "nsga2": 24, "gp": 3})
"""Suggestions that reach a sampler's model: ehvi needs four trials, nsga2 a generation of 20, gp takes a
second for each. Other samplers get 12, because Optuna's own begin with 10 random ones."""


def check_sampler(proposer: ProposerSettings, space: Space, *, full_budget: int, seed: int) -> None:
    """Make the sampler suggest a few configurations after artificial trials.

    Global random states and warning filters are restored.

    Raises:
        ValueError: an option that the sampler does not have, or of the wrong type.
        Exception: whatever the sampler raises.
    """
    _check_options(proposer.sampler, proposer.options)
    with _quiet():
        _ask(proposer, space, full_budget, seed)
        if proposer.sampler == "ehvi":  # it leaves some suggestions to TPE once 30 trials have ended
            tpe = dataclasses.replace(proposer, sampler="tpe", options={})
            _ask(tpe, space, full_budget, seed)


def _check_options(sampler: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a few suggestions do not show: without effect, or used only after many trials.

    Raises:
        ValueError: the option, and what it may be.
    """
    if sampler in DESIGNS and options:
        raise ValueError(f"{sampler} has no arguments")
    for field in dataclasses.fields(EHVISettings) if sampler == "ehvi" else ():
        value, whole = options.get(field.name, field.default), isinstance(field.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{field.name} = {value!r}; allowed: a {'whole ' if whole else ''}number")


def _ask(proposer: ProposerSettings, space: Space, full_budget: int, seed: int) -> None:
    study = SearchStudy.open(
        "check",
        None,
        space=space,
        full_budget=full_budget,
        seed=seed,
        proposer=dataclasses.replace(proposer, startup=2),
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for number in range(_SUGGESTIONS.get(proposer.sampler, 12)):
        trial = study.ask().trial_id
        size, accuracy = 10_000 + 1000 * number, 0.5 + 0.05 * (number % 7)
        study.report(trial, RungRecord(trial_id=trial, epoch=full_budget, cost=size, accuracy=accuracy))
        study.complete(trial)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and logs inside the block, and restore the global random states after it."""
    verbosity, python, numpy = optuna.logging.get_verbosity(), random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        random.setstate(python)
        np.random.set_state(numpy)
