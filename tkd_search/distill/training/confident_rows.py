"""The rows of a batch from which a student learns where F must be sure of unlabelled images."""

import torch
from torch import Tensor

from tkd_search.distill.interfaces import UNLABELLED
from tkd_search.distill.training.reduction import Reduction


def confident_rows(
    logits: Tensor, labels: Tensor, others: Tensor | None, least: float, reduction: Reduction
) -> Tensor:
    """Return the rows [b] with a label, or whose likeliest class F gives at least the probability ``least``.

    Args:
        logits: F's [B, c].
        labels: int64 [B].
        others: labels [B] of the images mixed in, None where none are.
        least: in [0, 1].
        reduction: the workers of the training; each returns equally many rows.
    """
    kept = logits.detach().softmax(-1).amax(-1) >= least
    for known in (labels, others):
        kept = kept if known is None else kept | (known != UNLABELLED)
    rows = torch.nonzero(kept)[:, 0]
    count = torch.tensor([len(rows)], device=rows.device)
    return rows[: int(reduction.gather(count).min())]
