"""Selection and weighting of teachers by the heuristic or its controls (docs/method.md, equation 6)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tkd_search.distill.method_settings import MethodSettings
from tkd_search.distill.teachers.criteria import CRITERIA, Snapshot


@dataclass(frozen=True)
class Selection:
    """The selected teachers.

    ``candidates`` int64 [K], best first; ``weights`` [K] sum to 1; ``agreement`` [K] is CKA(h, φ(y_k)) on the
    sample of the selection.
    """

    candidates: Tensor
    weights: Tensor
    agreement: Tensor

    def to(self, device: torch.device) -> "Selection":
        """Return the same selection on another device."""
        return Selection(*(part.to(device) for part in (self.candidates, self.weights, self.agreement)))


def z_scored(values: Tensor) -> Tensor:
    """Scale values [n] to mean 0 and deviation 1.

    The result is zero where all values are equal or n = 1. NaN and infinite values count as the smallest
    finite value.
    """
    values = values.double()
    finite = values.isfinite()
    worst = values[finite].min() if bool(finite.any()) else values.new_zeros(())
    values = torch.where(finite, values, worst)
    return (values - values.mean()) / (values.std(unbiased=False) + 1e-6)


def weighted_score(criteria: Mapping[str, Tensor], omega: Mapping[str, float]) -> Tensor:
    """Return s_k = Σ ω_c·zscore_k(criterion_c) / Σ|ω_c| over the names in ``omega``; zeros if empty."""
    total = sum(abs(w) for w in omega.values())
    size = len(next(iter(criteria.values())))
    score = torch.zeros(size, dtype=torch.float64)
    for name, weight in omega.items():
        if weight:
            score = score + weight / total * z_scored(criteria[name]).cpu()
    return score


def omega_of(settings: MethodSettings) -> dict[str, float]:
    """Return the weights ω by criterion, without zeros."""
    omega = {name: float(getattr(settings, f"omega_{name}")) for name in CRITERIA}
    return {name: weight for name, weight in omega.items() if weight}


def top(score: Tensor, k: int) -> Tensor:
    """Return the k best positions of score [n], best first, ties by position; k is clipped to n."""
    return score.argsort(descending=True, stable=True)[: min(k, len(score))]


def depth_order(taps: int, masks: int) -> Tensor:
    """Return a score per candidate for ``last_k``: deeper taps are higher, whole taps are above halves."""
    candidate = torch.arange(taps * masks)
    return (candidate % taps - taps * (candidate // taps)).double()


def select(
    settings: MethodSettings, snapshot: Snapshot, *, taps: int, generator: torch.Generator
) -> Selection:
    """Select the teachers.

    ``heuristic`` weights candidates by softmax(s/T); ``uniform`` selects the same candidates with equal
    weights; ``random`` draws them; ``last_k`` selects the deepest taps; ``all`` selects every candidate.

    Args:
        settings: ``selection``, ``k`` (clipped to the number of candidates), ω and T.
        snapshot: the snapshot of all candidates.
        taps: the number of taps M.
        generator: the source of randomness of ``random``.
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
