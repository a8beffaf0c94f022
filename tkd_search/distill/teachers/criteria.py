"""Named criteria of the selection heuristic: one number per candidate, larger is better.

A criterion sees a ``Snapshot`` of all n candidates on a fixed sample of training rows and returns [n].
New ones join ``CRITERIA`` and inherit the conformance suite in tests/distill; their weight ω is a field
``omega_<name>`` of ``MethodSettings``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tkd_search.distill.losses.functional import generator_losses
from tkd_search.distill.losses.gradient_reward import gradient_length, theta_gradient
from tkd_search.distill.losses.similarity import FEWEST_ROWS, cka

_FLOOR = 1e-8


@dataclass(frozen=True)
class Snapshot:
    """What criteria may look at: n candidates on S sampled rows, all constants.

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


def probe(at: Snapshot) -> Tensor:
    """−CE(û, label), mean over rows: how well a candidate knows the classes."""
    return -generator_losses(at.teachers, at.labels).mean(1)


def weight_norm(at: Snapshot) -> Tensor:
    """log‖W‖ + log‖H‖ per √dim: how much a candidate's heads have made of its tap."""
    return at.score_norm.clamp_min(_FLOOR).log() + at.head_norm.clamp_min(_FLOOR).log()


def fisher(at: Snapshot) -> Tensor:
    """Log of between over within-class variance of the tap, from the bank's statistics."""
    return at.fisher.clamp_min(_FLOOR).log()


def alignment(at: Snapshot) -> Tensor:
    """CKA(h, φ(y)): how near a candidate is to what the student already sees; 0 under 4 rows."""
    if len(at.hidden) < FEWEST_ROWS:
        return at.fisher.new_zeros(len(at.fisher))
    return cka(at.hidden, at.features)


def gradient(at: Snapshot) -> Tensor:
    """log|∇_θ J|: how much a step on the candidate's activation would change its agreement."""
    log_p = (at.teachers / at.tau).log_softmax(-1)
    log_q = (at.logits / at.tau).log_softmax(-1)
    return gradient_length(theta_gradient(log_p, log_q, at.score_head, at.slopes, at.tau)).log()


CRITERIA: dict[str, Callable[[Snapshot], Tensor]] = {
    "probe": probe,
    "weight_norm": weight_norm,
    "fisher": fisher,
    "alignment": alignment,
    "gradient": gradient,
}
"""Criteria by name."""
