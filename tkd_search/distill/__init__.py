"""Distillation from generated and selected teachers, in plain PyTorch.

This package needs neither Ray, Optuna, MLflow, pydantic nor the file system. Its entry point is
:class:`~tkd_search.distill.training.distiller.Distiller`; the equations are in docs/method.md. The names are
imported on first use: the settings of an experiment are read without PyTorch.
"""

from typing import TYPE_CHECKING

from tkd_search.lazy import importer

if TYPE_CHECKING:
    from tkd_search.distill.diverged import Diverged
    from tkd_search.distill.features.bank_builder import compute_bank
    from tkd_search.distill.method_settings import BankSettings, MethodSettings, TrainSettings
    from tkd_search.distill.training.distiller import Distiller
    from tkd_search.distill.training.evaluation import evaluate

__all__ = [
    "BankSettings",
    "Distiller",
    "Diverged",
    "MethodSettings",
    "TrainSettings",
    "compute_bank",
    "evaluate",
]

__getattr__ = importer(
    __name__,
    {
        "Diverged": "diverged",
        "Distiller": "training.distiller",
        "compute_bank": "features.bank_builder",
        "evaluate": "training.evaluation",
        **dict.fromkeys(("BankSettings", "MethodSettings", "TrainSettings"), "method_settings"),
    },
)
