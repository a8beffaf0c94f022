"""The gradient reward R: how much one step on θ_k would lower J_k, bounded (docs/method.md, eq. 7 and 8).

The generated logits do not depend on the student, so ∇_θ J has a closed form and training needs no
double backward.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_TINY = 1e-6
TANH_CAP = 0.1


def lookahead(step: Tensor, loss: Tensor) -> Tensor:
    """J(1 − e^{−x/J}): equals x for small x and stays below J, so the reward never exceeds what is there."""
    loss = loss + _TINY
    return loss * -torch.expm1(-step / loss)


def raw(step: Tensor, loss: Tensor) -> Tensor:
    """The length x itself, the article's term; unbounded, it collapses training at large r·α."""
    return step


def tanh(step: Tensor, loss: Tensor) -> Tensor:
    """The length x, softly capped at 0.1."""
    return TANH_CAP * torch.tanh(step / TANH_CAP)


BOUNDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"raw": raw, "lookahead": lookahead, "tanh": tanh}
"""𝓑(x, J) by name: the length x ≥ 0 of the decrease hoped for and the loss J ≥ 0, [K] each → [K]."""


def theta_gradient(log_p: Tensor, log_q: Tensor, score_head: Tensor, slopes: Tensor, tau: float) -> Tensor:
    """∇_θ of J_k = mean_B τ²·KL(p_k ‖ q), differentiable in log q alone.

    Args:
        log_p: log softmax(û/τ) of the generated teachers [K, B, c], constants.
        log_q: log softmax(z/τ) of the student [B, c].
        score_head: ∂û/∂ℓ̂ [K, c].
        slopes: ∂ℓ̂/∂θ [K, B, q].
        tau: τ.

    Returns:
        [K, q]: mean_B ⟨τ·p ⊙ (log(p/q) − KL(p‖q)), ∂û/∂θ⟩, with ∂û/∂θ = score_head ⊗ slopes. The term
        −KL·Σp·∂û moves into the constants: Σ_c p(d − Σpd)w = Σ_c p(w − Σpw)d.
    """
    p, w = log_p.exp(), score_head[:, None]
    weight = p * (w - (p * w).sum(-1, keepdim=True))
    per_row = (weight * (log_p - log_q)).sum(-1)
    return tau * torch.einsum("kb,kbq->kq", per_row, slopes) / log_p.shape[1]


def gradient_length(gradient: Tensor) -> Tensor:
    """√(|∇|² + 1e-12) over the last axis: [K, q] → [K], with a finite slope at zero."""
    return (gradient.square().sum(-1) + 1e-12).sqrt()
