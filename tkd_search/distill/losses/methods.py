"""From a method's name to its objective, and to where its signals come from."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.bank_builder import compute_bank
from tkd_search.distill.features.signal_source import BankSource, LearningSource, LiveSource, SignalSource
from tkd_search.distill.interfaces import ViewSource
from tkd_search.distill.losses.objective import Context, FromFeatures, FromLogits, LabelsOnly, Needs
from tkd_search.distill.losses.tkd import GeneratedTeachers, tkd_needs
from tkd_search.distill.method_settings import BankSettings, MethodSettings

AnyObjective = LabelsOnly | FromLogits | FromFeatures | GeneratedTeachers


def build_objective(method: MethodSettings, context: Context) -> AnyObjective:
    """The objective of a method.

    Raises:
        ValueError: it needs a bank or cells that are not there.
    """
    if method.name == "ce":
        return LabelsOnly(context)
    if method.name in ("kd", "dkd", "dist"):
        return FromLogits(method, context)
    if method.name in ("hint", "at", "sp"):
        return FromFeatures(method, context)
    return GeneratedTeachers(method, context)


def _needs(method: MethodSettings) -> Needs:
    """What a method reads of the big models."""
    if method.name == "ce":
        return Needs()
    if method.name == "tkd":
        needs = tkd_needs(method)
        return replace(needs, logits=needs.logits or needs.features)
    return Needs(logits=True, features=method.name in ("hint", "sp"), cells=method.name == "at")


class _Free:
    """Views of a source as if they were drawn freely: makes a bank's form without its rows."""

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
) -> tuple[SignalSource | None, Bank | None]:
    """Where a method's signals come from, and the bank that gives them their form.

    The bank's rows where it has any; else the big models, run live on every batch. Where features are
    wanted and there is no bank at all, its form is made here, in one pass over the training images.

    Raises:
        ValueError: neither rows nor big models are there.
    """
    needs = _needs(method)
    if not needs.anything:
        return None, bank
    features, cells = needs.features, needs.cells
    back = method.name == "tkd" and method.distil_back == "big_model"
    if bank is not None and bank.views and not back:
        return BankSource(bank, features=features, cells=cells, device=device), bank
    if not big_models:
        why = "distil_back = big_model" if back else "no bank with rows"
        raise ValueError(f"method.name = {method.name} with {why} needs big_models to run live")
    models = [model.eval().to(device) for model in big_models]
    if bank is None and (features or cells):
        grid = 4 if cells else 0
        bank = compute_bank(models, _Free(views), BankSettings(grid=grid), device=device)
    form = None if bank is None else bank.to(device)
    if back:
        return LearningSource(models, form, method, features=features, cells=cells), form
    return LiveSource(models, form, features=features, cells=cells), form
