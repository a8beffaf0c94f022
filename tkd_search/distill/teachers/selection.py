"""Which candidates become teachers, and with what weight: the weight-based heuristic and its controls.

Pure functions from criteria to frozen selections (docs/method.md, equation 6).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tkd_search.distill.method_settings import MethodSettings
from tkd_search.distill.teachers.criteria import CRITERIA, Snapshot


@dataclass(frozen=True)
class Selection:
    """The teachers: ``candidates`` int64 [K], most wanted first; ``weights`` [K] sum to 1.

    ``agreement`` [K] is CKA(h, φ(y_k)) on the sample they were chosen on: what the student saw of each.
    """

    candidates: Tensor
    weights: Tensor
    agreement: Tensor

    def to(self, device: torch.device) -> "Selection":
        """The same on another device."""
        return Selection(*(part.to(device) for part in (self.candidates, self.weights, self.agreement)))


def z_scored(values: Tensor) -> Tensor:
    """Values [n] with mean 0 and deviation 1; zeros where all are equal or n = 1; NaN counts as the least."""
    values = values.double()
    finite = values.isfinite()
    worst = values[finite].min() if bool(finite.any()) else values.new_zeros(())
    values = torch.where(finite, values, worst)
    return (values - values.mean()) / (values.std(unbiased=False) + 1e-6)


def weighted_score(criteria: Mapping[str, Tensor], omega: Mapping[str, float]) -> Tensor:
    """s_k = Σ ω_c·z-scored criterion_c(k) / Σ|ω_c| over ``omega``'s names; zeros where no ω is set."""
    total = sum(abs(w) for w in omega.values())
    size = len(next(iter(criteria.values())))
    score = torch.zeros(size, dtype=torch.float64)
    for name, weight in omega.items():
        if weight:
            score = score + weight / total * z_scored(criteria[name]).cpu()
    return score


def omega_of(settings: MethodSettings) -> dict[str, float]:
    """ω by criterion, those that are not zero."""
    omega = {name: float(getattr(settings, f"omega_{name}")) for name in CRITERIA}
    return {name: weight for name, weight in omega.items() if weight}


def top(score: Tensor, k: int) -> Tensor:
    """The k best positions of score [n], best first, ties by position; k is clipped to n."""
    return score.argsort(descending=True, stable=True)[: min(k, len(score))]


def depth_order(taps: int, masks: int) -> Tensor:
    """All candidates, the deepest tap first, whole taps before halves: a score for ``last_k``."""
    candidate = torch.arange(taps * masks)
    return (candidate % taps - taps * (candidate // taps)).double()


def select(
    settings: MethodSettings, snapshot: Snapshot, *, taps: int, generator: torch.Generator
) -> Selection:
    """Choose the teachers.

    Args:
        settings: ``selection``, ``k`` (clipped to the number of candidates), ω and T.
        snapshot: of all candidates.
        taps: M.
        generator: randomness of the control ``random``.

    ``heuristic`` weighs by softmax(s/T); ``uniform`` takes the same candidates with equal weights;
    ``random`` draws anew each time; ``last_k`` takes the deepest taps; ``all`` takes every candidate.
    """
    n = len(snapshot.fisher)
    kind = settings.selection
    if kind in ("heuristic", "uniform"):
        omega = omega_of(settings)
        criteria = {name: CRITERIA[name](snapshot) for name in omega} or {"none": torch.zeros(n)}
        score = weighted_score(criteria, omega)
    elif kind == "random":
        score = torch.rand(n, generator=generator, dtype=torch.float64)
    else:
        score = depth_order(taps, n // taps)
    chosen = top(score, n if kind == "all" else settings.k)
    weights = torch.full((len(chosen),), 1 / len(chosen), dtype=torch.float64)
    if kind == "heuristic":
        weights = (score[chosen] / settings.selection_temperature).softmax(0)
    return Selection(chosen, weights.float(), CRITERIA["alignment"](snapshot)[chosen].cpu())
