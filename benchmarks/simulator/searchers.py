"""The searchers that are compared: studies over the same space with different samplers and pruners."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from benchmarks.simulator import moasha
from benchmarks.simulator.curves import Curves
from benchmarks.simulator.replay import AskTell
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.student_costs import CostOf
from tkd_search.optimize.study import Adjust, SearchStudy


@dataclass(frozen=True, kw_only=True)
class Searcher:
    """The sampler and the pruner of one searcher.

    Attributes:
        name: as in tables and JSON.
        proposer: sampler, start points and accuracy estimator.
        pruner: name or import path of the pruner.
        pruner_options: further arguments of the pruner.
    """

    name: str
    proposer: ProposerSettings = field(default_factory=ProposerSettings)
    pruner: str = "never"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)

    def open(
        self, curves: Curves, seed: int, adjust: Adjust | None = None, size_of: CostOf | None = None
    ) -> SearchStudy:
        """Return a new study in memory; ``adjust`` may map every proposal to another configuration."""
        return SearchStudy.open(
            f"{self.name}-{seed}",
            None,
            space=curves.space,
            full_budget=curves.epochs,
            pruner=create_pruner(
                self.pruner,
                full_budget=curves.epochs,
                classes=curves.classes,
                options=self.pruner_options,
            ),
            seed=seed,
            proposer=self.proposer,
            scale=curves.scale,
            classes=curves.classes,
            cost_of=size_of,
            adjust=adjust,
        )


class Moasha:
    """syne-tune's MOASHA; see ``moasha``."""

    name = "moasha"

    def open(
        self, curves: Curves, seed: int, adjust: Adjust | None = None, size_of: CostOf | None = None
    ) -> AskTell:
        """Return a new scheduler; it has no ``adjust``, so in table mode the nearest rows are evaluated."""
        return moasha.MoashaStudy(curves.space, curves.epochs, seed)


OURS = Searcher(name="ours", pruner="front_probability")
"""The defaults of a search: the sampler ``ehvi`` and the pruner ``front_probability``."""

# Optuna's own defaults: ten random trials, then the model, fitted to whole trials only.
_STOCK_TPE = ProposerSettings(sampler="tpe", options={"n_startup_trials": 10}, startup=0, learning="full")
_STOCK_NSGA2 = ProposerSettings(sampler="nsga2", options={"population_size": 50}, startup=0, learning="full")

SEARCHERS: Mapping[str, Callable[[], Searcher | Moasha]] = MappingProxyType(
    {
        "random": lambda: Searcher(name="random", proposer=ProposerSettings(sampler="random")),
        "tpe": lambda: Searcher(name="tpe", proposer=_STOCK_TPE),
        "nsga2": lambda: Searcher(name="nsga2", proposer=_STOCK_NSGA2),
        "tpe_asha": lambda: Searcher(name="tpe_asha", proposer=_STOCK_TPE, pruner="single_objective"),
        "moasha": Moasha,
        "ours": lambda: OURS,
    }
)
