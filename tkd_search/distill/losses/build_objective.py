"""Builds the objective of a method and its source of signals from the method's settings."""

from collections.abc import Sequence

import torch
from torch import nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.bank_builder import compute_bank
from tkd_search.distill.features.signal_source import BankSource, LearningSource, LiveSource, SignalSource
from tkd_search.distill.interfaces import ViewSource
from tkd_search.distill.losses.objective import (
    Context,
    FeatureDistillation,
    LabelsOnly,
    LogitDistillation,
)
from tkd_search.distill.losses.tkd import GeneratedTeachers
from tkd_search.distill.method_needs import needs_of
from tkd_search.distill.method_settings import BankSettings, MethodSettings

AnyObjective = LabelsOnly | LogitDistillation | FeatureDistillation | GeneratedTeachers


def build_objective(method: MethodSettings, context: Context) -> AnyObjective:
    """Return the objective of a method.

    Raises:
        ValueError: the method needs a bank or cells that are missing.
    """
    if method.name == "ce":
        return LabelsOnly(context)
    if method.name in ("kd", "dkd", "dist"):
        return LogitDistillation(method, context)
    if method.name in ("hint", "at", "sp"):
        return FeatureDistillation(method, context)
    return GeneratedTeachers(method, context)


class _FreelyDrawnViews:
    """Presents the views of a source as freely drawn, so that a bank is computed without rows."""

    views = 0

    def __init__(self, source: ViewSource) -> None:
        self.labels, self._source = source.labels, source

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, index: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        return self._source.batch(index, view)


def signal_source(
    method: MethodSettings,
    views: ViewSource,
    bank: Bank | None,
    big_models: Sequence[nn.Module],
    device: torch.device,
    precision: str = "fp32",
) -> tuple[SignalSource | None, Bank | None]:
    """Return the source of a method's signals and the bank that defines its features.

    The source reads the rows of the bank if it has any, else it runs the big models live on every batch.
    Where features are needed and there is no bank, a bank without rows is computed in one pass over the
    training images. Models that run live compute in the autocast ``precision``.

    Raises:
        ValueError: there are neither rows nor big models.
    """
    needs = needs_of(method)
    if not needs.anything:
        return None, bank
    features, cells = needs.features, needs.cells
    back = method.name == "tkd" and method.distil_back == "big_model"
    if bank is not None and bank.views and not back:
        return BankSource(bank, features=features, cells=cells, device=device), bank
    if not big_models:
        reason = "distil_back = big_model" if back else "no bank with rows"
        raise ValueError(f"method.name = {method.name} with {reason} needs big_models to run live")
    models = [model.eval().to(device) for model in big_models]
    if bank is None and (features or cells):
        grid = 4 if cells else 0
        bank = compute_bank(models, _FreelyDrawnViews(views), BankSettings(grid=grid), device=device)
    template = None if bank is None else bank.without_rows().to(device)
    if back:
        return LearningSource(
            models, template, method, features=features, cells=cells, precision=precision
        ), template
    return LiveSource(models, template, features=features, cells=cells, precision=precision), template
