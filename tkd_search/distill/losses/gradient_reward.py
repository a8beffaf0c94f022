"""The gradient reward R: the bounded decrease of J_k by one step on θ_k (docs/method.md, equations 7 and 8).

The generated logits û_k are computed from the student's standardised logits z̄, which are detached. With û_k
constant for the student, ∇_θ J has a closed form that carries a gradient through q alone, and training needs
no double backward.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_EPSILON = 1e-6
_TANH_LIMIT = 0.1


def lookahead(step: Tensor, loss: Tensor) -> Tensor:
    """Return J(1 − e^{−x/J}), which is about x for small x and stays below J: no reward exceeds the loss."""
    loss = loss + _EPSILON
    return loss * -torch.expm1(-step / loss)


def raw(step: Tensor, loss: Tensor) -> Tensor:
    """Return the length x, the article's term; it is unbounded, and training collapses at large r·α."""
    return step


def tanh(step: Tensor, loss: Tensor) -> Tensor:
    """Return 0.1·tanh(x/0.1), which limits the length x to 0.1."""
    return _TANH_LIMIT * torch.tanh(step / _TANH_LIMIT)


BOUNDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"raw": raw, "lookahead": lookahead, "tanh": tanh}
"""𝓑(x, J) by name: first-order decrease x ≥ 0 and loss J ≥ 0, [K] each → [K]."""


def theta_gradient(log_p: Tensor, log_q: Tensor, score_head: Tensor, slopes: Tensor, tau: float) -> Tensor:
    """Return ∇_θ of J_k = mean_B τ²·KL(p_k ‖ q), differentiable in log q alone.

    Args:
        log_p: log softmax(û/τ) of the generated teachers [K, B, c], constants.
        log_q: log softmax(z/τ) of the student [B, c].
        score_head: ∂û/∂ℓ̂ [K, c].
        slopes: ∂ℓ̂/∂θ [K, B, q].
        tau: τ.

    Returns:
        [K, q]: mean_B ⟨τ·p ⊙ (log(p/q) − KL(p‖q)), ∂û/∂θ⟩, with ∂û/∂θ = score_head ⊗ slopes. The code centres
        the constant w = score_head instead of d = log(p/q): Σ_c p(d − Σpd)w = Σ_c p(w − Σpw)d.
    """
    p, w = log_p.exp(), score_head[:, None]
    weight = p * (w - (p * w).sum(-1, keepdim=True))
    per_row = (weight * (log_p - log_q)).sum(-1)
    return tau * torch.einsum("kb,kbq->kq", per_row, slopes) / log_p.shape[1]


def gradient_length(gradient: Tensor) -> Tensor:
    """Return √(|∇|² + 1e-12) over the last axis: [K, q] → [K], with a finite derivative at zero."""
    return (gradient.square().sum(-1) + 1e-12).sqrt()
