"""Named criteria of the selection heuristic: one number per candidate, larger is better.

A criterion maps a ``Snapshot`` of all n candidates on a fixed sample of training rows to values [n]. A new
criterion is an entry of ``CRITERIA`` and a field ``omega_<name>`` of ``MethodSettings``, its weight ω; the
conformance suite in tests/distill then tests it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tkd_search.distill.losses.functional import generator_losses
from tkd_search.distill.losses.gradient_reward import gradient_length, theta_gradient
from tkd_search.distill.losses.similarity import MIN_ROWS, cka

_MIN_VALUE = 1e-8


@dataclass(frozen=True)
class Snapshot:
    """Input of the criteria: n candidates on S sampled rows, all constants.

    ``labels`` [S]; the student's ``logits`` z [S, c] and ``hidden`` h [S, d]; the candidates'
    ``teachers`` û [n, S, c], ``features`` φ(y)⊙m [n, S, P], ``slopes`` ∂ℓ̂/∂θ [n, S, q],
    ``score_head`` ∂û/∂ℓ̂ [n, c]; ``score_norm`` ‖W‖ and ``head_norm`` ‖H‖ per √dim [n]; ``fisher``,
    between over within-class variance of each candidate's tap [n]; ``tau`` τ.
    """

    labels: Tensor
    logits: Tensor
    hidden: Tensor
    teachers: Tensor
    features: Tensor
    slopes: Tensor
    score_head: Tensor
    score_norm: Tensor
    head_norm: Tensor
    fisher: Tensor
    tau: float


def probe(snapshot: Snapshot) -> Tensor:
    """Return −CE(û, label), mean over rows: a candidate's fit to the labels."""
    return -generator_losses(snapshot.teachers, snapshot.labels).mean(1)


def weight_norm(snapshot: Snapshot) -> Tensor:
    """Return log‖W‖ + log‖H‖ per √dim: the size of a candidate's learned weights on its tap."""
    return snapshot.score_norm.clamp_min(_MIN_VALUE).log() + snapshot.head_norm.clamp_min(_MIN_VALUE).log()


def fisher(snapshot: Snapshot) -> Tensor:
    """Return the log of between over within-class variance of the tap, from the bank's statistics."""
    return snapshot.fisher.clamp_min(_MIN_VALUE).log()


def alignment(snapshot: Snapshot) -> Tensor:
    """Return CKA(h, φ(y)), the similarity of student and candidate features; 0 with fewer than 4 rows."""
    if len(snapshot.hidden) < MIN_ROWS:
        return snapshot.fisher.new_zeros(len(snapshot.fisher))
    return cka(snapshot.hidden, snapshot.features)


def gradient(snapshot: Snapshot) -> Tensor:
    """Return log|∇_θ J|: the sensitivity of a candidate's J to its activation parameters."""
    log_p = (snapshot.teachers / snapshot.tau).log_softmax(-1)
    log_q = (snapshot.logits / snapshot.tau).log_softmax(-1)
    return gradient_length(
        theta_gradient(log_p, log_q, snapshot.score_head, snapshot.slopes, snapshot.tau)
    ).log()


CRITERIA: dict[str, Callable[[Snapshot], Tensor]] = {
    "probe": probe,
    "weight_norm": weight_norm,
    "fisher": fisher,
    "alignment": alignment,
    "gradient": gradient,
}
"""Criteria by name."""
