"""Losses of teachers and targets at single spatial cells (docs/method.md, equations 10 and 11).

The feature of a convolutional tap is a mean over positions and its head is linear, so both are also defined
for one cell of the image. S is the number of cells that student and bank share.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tkd_search.distill.losses import functional
from tkd_search.distill.losses.objective import pooled_cells, student_cells

MIN_SQUARED_NORM = 1e-6
"""Lower bound of |A h|² in a cosine, which bounds the gradient of a cell with features near zero."""


class SpatialCells(NamedTuple):
    """Features of the student and of k spatial taps in S cells.

    ``hidden`` h(g) [B, S, d]; ``features`` y(g) [k, B, S, P].
    """

    hidden: Tensor
    features: Tensor


def cells_on_common_grid(maps: Tensor | None, cells: Tensor, grid: int) -> SpatialCells | None:
    """Average the student's maps [B, d, H', W'] and the bank's cells [B, k, G², P] on the coarser grid.

    Returns:
        The cells, or None where the student has no maps or maps of one row or column.
    """
    if maps is None or min(maps.shape[-2:]) < 2:
        return None
    hidden, side = student_cells(maps, grid)
    y = cells.to(hidden.dtype).transpose(0, 1)
    y = pooled_cells(y.transpose(2, 3), grid, side).transpose(2, 3)
    return SpatialCells(hidden.transpose(1, 2), y)


def local_teacher_loss(
    z: Tensor, teachers: Tensor, features: Tensor, head: Tensor, temperature: float
) -> Tensor:
    """Return τ_l²·KL(û_k(g) ‖ z(g)) per teacher [k], û_k(g) = û_k + H^y_k (y(g) − mean_g y) (equation 10).

    Args:
        z: logits of the student's classifier at its cells [B, S, c].
        teachers: û_k [k, B, c].
        features: y(g) [k, B, S, P].
        head: H^y_k [k, P, c].
        temperature: τ_l.
    """
    deviation = torch.matmul(features - features.mean(2, keepdim=True), head[:, None])
    return functional.kl(teachers[:, :, None] + deviation, z, temperature).mean((1, 2))


def local_feature_loss(hidden: Tensor, targets: Tensor, adapters: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − cosine of A_k h(g) and φ(y_k(g)), mean over rows and cells, per teacher [k] (equation 11).

    Args:
        hidden: h(g) [B, S, d].
        targets: φ(y_k(g)) ⊙ m_k [k, B, S, P].
        adapters: A_k [k, P, d].
        mask: m_k [k, P].
    """
    adapters = adapters * mask[..., None]
    h, target = hidden.flatten(0, 1), F.normalize(targets, dim=-1).flatten(1, 2)  # [B·S, d], [k, B·S, P]
    if hidden.shape[-1] < targets.shape[-1]:
        # This avoids predictions [k, B·S, P]: A h · t = h · Aᵀt and |A h|² = hᵀ(AᵀA)h.
        product = (torch.matmul(target, adapters) * h).sum(-1)
        square = (torch.matmul(h, torch.matmul(adapters.transpose(1, 2), adapters)) * h).sum(-1)
    else:
        predicted = torch.matmul(h, adapters.transpose(1, 2))
        product, square = (target * predicted).sum(-1), predicted.square().sum(-1)
    return 1 - (product * square.clamp_min(MIN_SQUARED_NORM).rsqrt()).mean(1)
