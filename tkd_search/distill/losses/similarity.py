"""Kinds of the feature reward L_R: dissimilarity of two sets of features of the same rows.

Every kind is a loss that is 0 where the student's features match the teacher's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tkd_search.distill.losses.functional import relation

RELATION_TEMPERATURE = 0.1
MIN_ROWS = 4
"""Minimum number of rows of the unbiased HSIC; with fewer rows the feature reward is skipped."""


def centred_gram(features: Tensor) -> Tensor:
    """Return U-centred Gram matrices [..., B, B] of features [..., B, D], B ≥ 4 (Székely and Rizzo 2014).

    ⟨Ũ(x), Ũ(y)⟩ / (B(B − 3)) is the unbiased HSIC of Song et al. (2012), equation 5.
    """
    gram = features @ features.transpose(-1, -2)
    rows = gram.shape[-1]
    gram = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    means = gram.sum(-1, keepdim=True) / (rows - 2)
    centred = gram - means - means.transpose(-1, -2) + means.sum(-2, keepdim=True) / (rows - 1)
    return centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1))


def cka(a: Tensor, b: Tensor) -> Tensor:
    """Return linear CKA (Kornblith et al. 2019) of [..., B, D] and [..., B, E] by the unbiased HSIC.

    CKA is 1 for equal features and about 0 for independent ones, for all D and E; it may be slightly
    negative. (The biased estimator gives .38 for independent features with D = 64, E = 96, B = 128.)
    """
    x, y = centred_gram(a), centred_gram(b)
    norms = x.square().sum((-1, -2)) * y.square().sum((-1, -2))
    return (x * y).sum((-1, -2)) / norms.clamp_min(1e-20).sqrt()


def cka_loss(student: Tensor, targets: Tensor) -> Tensor:
    """Return 1 − CKA of student features h [B, d] and targets [K, B, P] → [K]."""
    return 1 - cka(student, targets)


def cos_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return 1 − mean cosine of predictions [K, B, P] and targets [K, B, P] → [K]."""
    return 1 - F.cosine_similarity(predicted, targets, dim=-1).mean(-1)


def mse_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared difference of predictions [K, B, P] and targets [K, B, P] → [K]."""
    return (predicted - targets).square().mean((-1, -2))


def relation_loss(student: Tensor, targets: Tensor) -> Tensor:
    """Return the ``relation`` loss of student features h [B, d] and targets [K, B, P] → [K]."""
    return torch.stack([relation(target, student, RELATION_TEMPERATURE) for target in targets])


FEATURE_REWARDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cka": cka_loss,
    "cos": cos_loss,
    "mse": mse_loss,
    "relation": relation_loss,
}
"""Kinds of L_R by name, each returning [K]."""
ADAPTED = frozenset({"cos", "mse"})
"""Kinds whose first argument is the student's features adapted to P channels."""
