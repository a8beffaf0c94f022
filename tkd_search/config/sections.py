"""The sections of an experiment: the settings dataclasses of the packages."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tkd_search.config.search_settings import ResourceSettings, SearchSettings, TrackingSettings
from tkd_search.data.data_settings import DataSettings
from tkd_search.distill.method_settings import BankSettings, MethodSettings, MetricName, TrainSettings
from tkd_search.fields import setting
from tkd_search.models.model_settings import BigModelSettings, StudentSettings


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The leaves at the top level of the file."""

    name: str | None = setting(None, doc="name of the run; default: the file's name", searchable=False)
    seed: int = setting(0, ge=0, le=2**31 - 1, doc="root seed of everything random", searchable=False)
    output: str = setting("runs", doc="folder that holds the runs", searchable=False)
    storage: str | None = setting(
        None,
        doc="s3://…, gs://… or a folder all nodes share: data, bank, checkpoints, and a copy of the run; "
        "default: TKD_STORAGE, which the head of a cluster has",
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


@dataclass(frozen=True)
class TrialSettings:
    """The part of an experiment that a worker needs: plain values, without distributions.

    ``metric`` is ``search.metric``.
    """

    seed: int
    data: DataSettings
    big_models: tuple[BigModelSettings, ...]
    bank: BankSettings
    student: StudentSettings
    method: MethodSettings
    training: TrainSettings
    metric: MetricName

    def big_model_precision(self, model: BigModelSettings) -> Literal["fp32", "bf16", "fp16"]:
        """Return the autocast precision of a big model's training: its own, or else the trials'."""
        return self.training.precision if model.precision == "auto" else model.precision


@dataclass(frozen=True)
class Settings(TrialSettings):
    """All settings of an experiment at one point of the search space."""

    search: SearchSettings
    resources: ResourceSettings
    tracking: TrackingSettings
