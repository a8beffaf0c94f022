"""Settings of the search, of its resources and of tracking."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from tkd_search.distill.method_settings import MetricName
from tkd_search.fields import SettingError, check_bounds, setting
from tkd_search.results.costs import CostName
from tkd_search.units import MILLISECONDS

_LEAST_SHARE = 0.0001
"""Smallest share of a core or a GPU that Ray can allocate."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Budget, sampler, pruner and limits of the search."""

    trials: int = setting(
        26, ge=1, doc="number of trials; 1 by default where nothing is searched", searchable=False
    )
    max_hours: float | None = setting(
        None,
        gt=0,
        doc="wall-clock budget in hours, over all drivers, the big model's training included",
        searchable=False,
    )
    max_epochs: int | None = setting(
        None,
        ge=1,
        doc="budget in epochs over all trials: none starts once they are spent, running ones finish",
        searchable=False,
    )
    plateau: int | None = setting(
        None, ge=1, doc="end after this many finished trials without gain in hypervolume", searchable=False
    )
    cost: CostName = setting(
        "bytes",
        doc="what the search minimises: bytes of the weights file, or latency of one image through the ONNX "
        "file under onnxruntime on one CPU thread, measured on the driver's machine before training",
        searchable=False,
    )
    metric: MetricName = setting(
        "accuracy",
        doc="what the search maximises, and what every accuracy in its results is: accuracy, "
        "balanced_accuracy (mean recall of the classes) or macro_f1",
        searchable=False,
    )
    sampler: str = setting(
        "ehvi", doc="ehvi, tpe, nsga2, gp, random, qmc or package.module:Class", searchable=False
    )
    sampler_args: dict[str, Any] = setting(
        default_factory=dict, doc="further arguments of the sampler", searchable=False
    )
    learning: Literal["extrapolated", "highest_rung", "full"] = setting(
        "extrapolated",
        doc="accuracy of stopped trials that Optuna's samplers learn from: extrapolated (ehvi always), "
        "highest_rung, or full (they learn from finished trials alone)",
        searchable=False,
    )
    startup_trials: int | None = setting(
        None,
        ge=0,
        doc="quasi-random trials before the sampler's model; default: 6 for ehvi, 20 for others",
        searchable=False,
    )
    pruner: str = setting(
        "front_probability",
        doc="front_probability, stratified, single_objective, never or package.module:Class",
        searchable=False,
    )
    pruner_args: dict[str, Any] = setting(
        default_factory=dict, doc="further arguments of the pruner", searchable=False
    )
    enqueue: tuple[dict[str, Any], ...] = setting(
        (),
        doc="configurations tried first, such as [{student.width: 0.25, method.name: kd}]; fixed leaves keep "
        "their value, and the sampler chooses where a value is outside the space: the run lists these; equal "
        "configurations are tried once",
        searchable=False,
    )
    warm_start: tuple[str, ...] = setting(
        (), doc="names or study storages of earlier searches to learn from", searchable=False
    )
    max_latency: str | float | None = setting(
        None,
        doc="longest time of one image on one CPU thread, such as 5ms; slower students are not trained",
        searchable=False,
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        try:
            limit = self.latency_limit
        except ValueError:
            limit = math.nan
        if limit is not None and not 0 < limit < math.inf:
            allowed = f"a time above 0, {MILLISECONDS.allowed}, or null for no limit"
            raise SettingError("max_latency", repr(self.max_latency), allowed)

    @property
    def latency_limit(self) -> float | None:
        """``max_latency`` in milliseconds, None for no limit."""
        return None if self.max_latency is None else MILLISECONDS.parse(self.max_latency)


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """Resources of one trial, and the number of trials at once."""

    workers_per_trial: int = setting(1, ge=1, doc="Ray Train workers of one trial", searchable=False)
    cpus_per_worker: float = setting(1.0, gt=0, doc="CPU cores of one worker", searchable=False)
    gpus_per_worker: float = setting(
        0.0, ge=0, doc="GPUs of one worker: a whole number, or a fraction of a shared one", searchable=False
    )
    max_concurrent: int | None = setting(
        None, ge=1, doc="maximum number of trials at once; default: as many as fit", searchable=False
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("cpus_per_worker", "gpus_per_worker"):
            value = getattr(self, name)
            if 0 < value < _LEAST_SHARE:
                allowed = f"≥ {_LEAST_SHARE}, the smallest share that Ray allocates"
                raise SettingError(name, repr(value), allowed)
        if self.gpus_per_worker > 1 and not float(self.gpus_per_worker).is_integer():
            raise SettingError(
                "gpus_per_worker",
                repr(self.gpus_per_worker),
                "a whole number, or a part of one GPU below 1: Ray allocates only these",
            )


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """MLflow tracking."""

    uri: str | None = setting(
        None,
        doc="MLflow tracking URI, or 'none'; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the "
        "folder that the command is started from",
        searchable=False,
    )
    experiment: str | None = setting(
        None, doc="MLflow experiment; default tkd_search/<data set>", searchable=False
    )
    system_metrics: bool = setting(False, doc="log the driver's CPU, memory and GPU use", searchable=False)
