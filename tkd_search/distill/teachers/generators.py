"""Generated teachers: class logits computed from one tap's features, their score and the student's output.

Step 4 of the article (docs/method.md, equations 3 to 5). The parameters of all candidates are stacked, so any
subset is computed by one batched matrix product.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tkd_search.distill.features.taps import Tap
from tkd_search.distill.teachers.activations import ACTIVATIONS


class Generated(NamedTuple):
    """Output of k candidates for a batch.

    ``logits`` û [k, B, c]; ``scores`` ℓ̂ [k, B]; ``features`` φ(y)⊙m [k, B, P]; ``slopes`` ∂ℓ̂/∂θ
    [k, B, q], or None where they were not requested.
    """

    logits: Tensor
    scores: Tensor
    features: Tensor
    slopes: Tensor | None = None


def standardised(logits: Tensor) -> Tensor:
    """Return z̄ = (z − mean)/(rms + 1e-3) over classes [B, c], always detached."""
    z = logits.detach()
    z = z - z.mean(1, keepdim=True)
    return z / (z.square().mean(1, keepdim=True).sqrt() + 1e-3)


def candidate_names(taps: Sequence[Tap], masks: int) -> tuple[str, ...]:
    """Return names by position: the tap's label, followed by ``#j`` for its j-th random half."""
    return tuple(tap.label + (f"#{j}" if j else "") for j in range(masks) for tap in taps)


def channel_masks(widths: Sequence[int], masks: int, width: int, generator: torch.Generator) -> Tensor:
    """Return masks m [masks·M, P] of zeros and ones: first all real channels, then random halves of them."""
    mask = torch.zeros(masks * len(widths), width)
    for k in range(len(mask)):
        real = widths[k % len(widths)]
        chosen = torch.arange(real)
        if k >= len(widths):
            chosen = torch.randperm(real, generator=generator)[: max(1, real // 2)]
        mask[k, chosen] = 1
    return mask


class Generators(nn.Module):
    """All n = masks·M candidates; candidate k reads tap k mod M through mask k.

    Args:
        widths: real channels per tap, length M.
        classes: c.
        width: P.
        masks: channel masks per tap.
        activation: name in ``ACTIVATIONS``.
        theta0: initial activation parameter.
        theta_frozen: keep θ at its initial value.
        generator: source of randomness for masks and initial weights.
    """

    def __init__(
        self,
        widths: Sequence[int],
        classes: int,
        *,
        width: int,
        masks: int,
        activation: str,
        theta0: float,
        theta_frozen: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        n = masks * len(widths)
        self.activation = ACTIVATIONS[activation]
        self.width, self.classes, self.count = width, classes, n
        mask = channel_masks(widths, masks, width, generator)
        self.mask: Tensor
        self.tap: Tensor
        self.score_scale: Tensor
        self.register_buffer("mask", mask)
        self.register_buffer("tap", torch.arange(n) % len(widths))
        self.register_buffer("score_scale", (mask.sum(1) * classes).rsqrt())
        start = torch.tensor(self.activation.start(theta0), dtype=torch.float32).repeat(n, 1)
        self.theta = nn.Parameter(start, requires_grad=not theta_frozen)
        self.score_weight = nn.Parameter(torch.randn(n, classes, width, generator=generator))
        self.head = nn.Parameter(self._initial_head(generator))
        self.bias = nn.Parameter(torch.zeros(n, 1, classes))

    def _initial_head(self, generator: torch.Generator) -> Tensor:
        """Return H [n, P + 1 + c, c]: N(0, 0.1²) for y, N(0, 0.3²) for ℓ̂, 0.1·identity for z̄."""
        n, c = self.count, self.classes
        of_features = 0.1 * torch.randn(n, self.width, c, generator=generator)
        of_score = 0.3 * torch.randn(n, 1, c, generator=generator)
        return torch.cat([of_features, of_score, 0.1 * torch.eye(c).repeat(n, 1, 1)], 1)

    def feature_head(self, candidates: Tensor) -> Tensor:
        """Return H^y [k, P, c], the masked part of H that multiplies y ⊙ m."""
        return self.head[candidates, : self.width] * self.mask[candidates, :, None]

    def score_head(self, candidates: Tensor) -> Tensor:
        """Return ∂û/∂ℓ̂ [k, c], the part of H that multiplies the score."""
        return self.head[candidates, self.width]

    def activated(self, features: Tensor, candidates: Tensor) -> Tensor:
        """Return φ_θk(y_k ⊙ m_k) ⊙ m_k of features y [k, ..., P] for the candidates [k]."""
        mask = self.mask[candidates][:, None]
        y = features.flatten(1, -2) * mask
        return (self.activation.value(y, self.theta[candidates]) * mask).reshape(features.shape)

    def forward(
        self, features: Tensor, zbar: Tensor, candidates: Tensor | None = None, *, slopes: bool = False
    ) -> Generated:
        """Compute the teachers' logits.

        Args:
            features: Y [B, M, P], of any floating type.
            zbar: z̄ [B, c] (see ``standardised``).
            candidates: int64 [k]; None for all.
            slopes: whether to return ∂ℓ̂/∂θ too, without gradients.
        """
        tap, mask, scale = self.tap, self.mask, self.score_scale
        learned: tuple[Tensor, ...] = (self.theta, self.score_weight, self.head, self.bias)
        if candidates is not None:
            tap, mask, scale = tap[candidates], mask[candidates], scale[candidates]
            learned = tuple(p.index_select(0, candidates) for p in learned)
        theta, score_weight, head, bias = learned
        mask = mask[:, None]
        y = features.transpose(0, 1).index_select(0, tap).to(zbar.dtype) * mask
        phi = self.activation.value(y, theta) * mask
        projected = torch.matmul(zbar, score_weight)
        scores = torch.linalg.vecdot(projected, phi) * scale[:, None]
        stacked = torch.cat([y, scores[..., None], zbar.expand(len(y), -1, -1)], 2)
        logits = torch.baddbmm(bias, stacked, head)
        return Generated(
            logits, scores, phi, self._slopes(y, theta, projected, mask, scale) if slopes else None
        )

    @torch.no_grad()
    def _slopes(self, y: Tensor, theta: Tensor, projected: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
        slope = self.activation.slope(y, theta)
        return torch.einsum("kbp,kbpq->kbq", projected * mask, slope) * scale[:, None, None]


def parameter_norms(generators: Generators) -> tuple[Tensor, Tensor]:
    """Return ‖W_k ⊙ m_k‖ and ‖H^y_k ⊙ m_k‖ per √dim, [n] each."""
    mask = generators.mask
    size = (mask.sum(1) * generators.classes).sqrt()
    score = (generators.score_weight * mask[:, None]).flatten(1).norm(dim=1)
    head = (generators.head[:, : generators.width] * mask[..., None]).flatten(1).norm(dim=1)
    return score / size, head / size
