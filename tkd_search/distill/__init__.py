"""The method: distillation through generated, selected teachers, in plain PyTorch.

Nothing here knows Ray, Optuna, MLflow, pydantic or the file system. Start at ``trainer.Distiller``; the
equations are in docs/method.md.
"""

from tkd_search.distill.bank import Bank
from tkd_search.distill.building import compute_bank
from tkd_search.distill.errors import Diverged
from tkd_search.distill.evaluation import accuracy, evaluate
from tkd_search.distill.generators import candidate_count
from tkd_search.distill.settings import BankSettings, MethodSettings, TrainSettings
from tkd_search.distill.stats import EpochStats
from tkd_search.distill.taps import Tap, find_taps
from tkd_search.distill.trainer import Distiller
from tkd_search.distill.types import StudentLike, StudentOutput, ViewSource

__all__ = [
    "Bank",
    "BankSettings",
    "Distiller",
    "Diverged",
    "EpochStats",
    "MethodSettings",
    "StudentLike",
    "StudentOutput",
    "Tap",
    "TrainSettings",
    "ViewSource",
    "accuracy",
    "candidate_count",
    "compute_bank",
    "evaluate",
    "find_taps",
]
