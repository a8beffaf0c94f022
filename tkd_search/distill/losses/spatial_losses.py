"""The method at every place: teachers and targets of single cells (docs/method.md, equations 10 and 11).

A conv tap's feature is a mean over places and its head linear, so both can be asked about one cell of the
image. S is the number of cells that student and bank share.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tkd_search.distill.losses import functional
from tkd_search.distill.losses.objective import pooled_cells, student_cells

SMALLEST_SQUARE = 1e-6
"""|A h|² below this counts as this, so that a cell where the student says nothing has a bounded gradient."""


class Places(NamedTuple):
    """What student and selected spatial taps say about S cells.

    ``hidden`` h(g) [B, S, d]; ``features`` y(g) [k, B, S, P].
    """

    hidden: Tensor
    features: Tensor


def common_places(maps: Tensor | None, cells: Tensor, grid: int) -> Places | None:
    """Student's maps [B, d, H', W'] and the bank's cells [B, k, G², P] on the coarser of their grids.

    None where the student has no maps, or only one place.
    """
    if maps is None or min(maps.shape[-2:]) < 2:
        return None
    places, g = student_cells(maps, grid)
    y = cells.to(places.dtype).transpose(0, 1)
    y = pooled_cells(y.transpose(2, 3), grid, g).transpose(2, 3)
    return Places(places.transpose(1, 2), y)


def local_teacher_loss(
    z: Tensor, teachers: Tensor, features: Tensor, head: Tensor, temperature: float
) -> Tensor:
    """τ_l²·KL(û_k(g) ‖ z(g)) per teacher [k], û_k(g) = û_k + H^y_k (y(g) − mean_g y) (equation 10).

    Args:
        z: the student's classifier asked at its cells [B, S, c].
        teachers: û_k [k, B, c].
        features: y(g) [k, B, S, P].
        head: H^y_k [k, P, c].
        temperature: τ_l.
    """
    deviation = torch.matmul(features - features.mean(2, keepdim=True), head[:, None])
    return functional.kl(teachers[:, :, None] + deviation, z, temperature).mean((1, 2))


def local_feature_loss(hidden: Tensor, targets: Tensor, adapters: Tensor, mask: Tensor) -> Tensor:
    """1 − cosine of A_k h(g) and φ(y_k(g)), mean over rows and cells, per teacher [k] (equation 11).

    Args:
        hidden: h(g) [B, S, d].
        targets: φ(y_k(g)) ⊙ m_k [k, B, S, P].
        adapters: A_k [k, P, d].
        mask: m_k [k, P].
    """
    adapters = adapters * mask[..., None]
    h, goal = hidden.flatten(0, 1), F.normalize(targets, dim=-1).flatten(1, 2)  # [B·S, d], [k, B·S, P]
    if hidden.shape[-1] < targets.shape[-1]:
        # Without predictions [k, B·S, P]: A h · t = h · Aᵀt and |A h|² = hᵀ(AᵀA)h.
        along = (torch.matmul(goal, adapters) * h).sum(-1)
        square = (torch.matmul(h, torch.matmul(adapters.transpose(1, 2), adapters)) * h).sum(-1)
    else:
        said = torch.matmul(h, adapters.transpose(1, 2))
        along, square = (goal * said).sum(-1), said.square().sum(-1)
    return 1 - (along * square.clamp_min(SMALLEST_SQUARE).rsqrt()).mean(1)
