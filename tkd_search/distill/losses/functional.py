"""Losses of the method and of its baselines, as functions of logits and features.

The teacher's tensor is the first argument, the student's the second. Callers detach the teacher's tensor
where only the student is to learn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tkd_search.distill.interfaces import UNLABELLED


def kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """Return τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)) over the last axis (Hinton et al. 2015)."""
    log_p = (teacher / tau).log_softmax(-1)
    log_q = (student / tau).log_softmax(-1)
    return tau * tau * (log_p.exp() * (log_p - log_q)).sum(-1)


_MIN_DEVIATION = 1e-4
"""Lower bound of the norm of a student's centred probabilities in a correlation.

A last layer that starts at zero (torchvision's ViT) gives all classes equal probability. The gradient of a
correlation is zero or unbounded there, and one unbounded gradient in AdamW's second moment stops all further
learning.
"""


def _pearson_loss(teacher: Tensor, student: Tensor, dim: int) -> Tensor:
    """Return 1 − mean Pearson correlation along ``dim``, with a bounded gradient."""
    a = F.normalize(teacher - teacher.mean(dim, keepdim=True), dim=dim)
    b = student - student.mean(dim, keepdim=True)
    length = b.square().sum(dim).clamp_min(_MIN_DEVIATION**2).sqrt()
    return 1 - ((a * b).sum(dim) / length).mean()


def dist(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """Return DIST (Huang et al. 2022): 1 − Pearson correlation over classes and over rows, 2τ each; a scalar.

    Both arguments are [B, c]. With one row the correlation over rows is undefined and left out.
    """
    p, q = (teacher / tau).softmax(-1), (student / tau).softmax(-1)
    between = _pearson_loss(p, q, 1)
    within = _pearson_loss(p, q, 0) if len(p) > 1 else between.new_zeros(())
    return 2 * tau * (between + within)


def dkd(teacher: Tensor, student: Tensor, labels: Tensor, tau: float, beta: float) -> Tensor:
    """Return decoupled KD (Zhao et al. 2022): τ²·(target KL + β·non-target KL), mean over rows [B, c]."""
    target = F.one_hot(labels, student.shape[-1]).bool()
    log_p, log_q = (teacher / tau).log_softmax(-1), (student / tau).log_softmax(-1)
    p_target = (log_p.exp() * target).sum(-1).clamp(1e-6, 1 - 1e-6)
    q_target = (log_q.exp() * target).sum(-1).clamp(1e-6, 1 - 1e-6)
    of_target = p_target * (p_target / q_target).log()
    of_rest = (1 - p_target) * ((1 - p_target) / (1 - q_target)).log()
    other_p = (teacher / tau).masked_fill(target, -1e4).log_softmax(-1)
    other_q = (student / tau).masked_fill(target, -1e4).log_softmax(-1)
    of_others = (other_p.exp() * (other_p - other_q)).sum(-1)
    return tau * tau * (of_target + of_rest + beta * of_others).mean()


def relation(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """Return the KL divergence between row similarities of teacher [B, D] and student features [B, d].

    The similarities of row b are a softmax, at temperature τ, over its cosines with all other rows; features
    are centred. The result is a scalar, 0 with fewer than 3 rows.
    """
    rows = len(student)
    if rows < 3:
        return student.new_zeros(())
    return kl(_others_cosines(teacher), _others_cosines(student), tau).mean() / (tau * tau)


def _others_cosines(features: Tensor) -> Tensor:
    """Return the cosines [B, B − 1] of every row's centred features with those of all other rows."""
    unit = F.normalize(features - features.mean(0), dim=1, eps=1e-6)
    cosines, rows = unit @ unit.T, len(unit)
    # This drops the diagonal, which is every (B + 1)-th element of the flattened matrix.
    return cosines.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)


def similarity_preserving(teacher: Tensor, student: Tensor) -> Tensor:
    """Return SP (Tung and Mori 2019): squared distance, ÷ B, of the Gram matrices of [B, D] and [B, d].

    The rows of the Gram matrices are normalised.
    The paper divides by B² and uses weights in the thousands; with ÷ B a weight of 1 suits any batch size.
    """
    return (F.normalize(teacher @ teacher.T) - F.normalize(student @ student.T)).square().sum() / len(student)


def attention_transfer(teacher: Tensor, student: Tensor) -> Tensor:
    """Return AT (Zagoruyko and Komodakis 2017): distance of attention maps of [B, D, S] and [B, d, S].

    The attention at a position is the mean square over channels, normalised over the S positions.
    """
    a = F.normalize(teacher.square().mean(1), dim=1)
    b = F.normalize(student.square().mean(1), dim=1)
    return (a - b).square().sum(1).mean()


def hint(predicted: Tensor, target: Tensor, real: int) -> Tensor:
    """Return FitNet's hint (Romero et al. 2015): mean squared difference over rows and ``real`` channels.

    Both tensors are [B, P]; the channels after the first ``real`` ones are padding.
    """
    return (predicted[:, :real] - target[:, :real]).square().mean()


def label_loss(
    logits: Tensor,
    labels: Tensor,
    smoothing: float,
    class_weights: Tensor | None = None,
    labelled: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of [B, c] with labels [B], mean over rows weighted by ``class_weights`` [c].

    Weighted rows are divided by B and not by the sum of their weights, so that the mean over several workers
    is that of the whole batch. For the same reason ``labelled`` is the number of rows with a label in the
    batches of all workers, divided by the number of workers; None where every row has one. The loss is 0
    where no row has one.
    """
    if class_weights is None and labelled is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    rows = F.cross_entropy(
        logits, labels, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="none"
    )
    if class_weights is not None:
        rows = class_weights[labels] * rows
    return rows.mean() if labelled is None else rows.sum() / labelled.clamp_min(1e-6)


def known_or_predicted(labels: Tensor, logits: Tensor) -> Tensor:
    """Return labels [B], those of unlabelled rows replaced by the class that logits [B, c] predict."""
    return torch.where(labels == UNLABELLED, logits.argmax(-1), labels)


def balanced_class_weights(labels: Tensor, class_count: int) -> Tensor:
    """Return n ÷ (classes · images of the class) [c] for labels [n], as scikit-learn's ``balanced``.

    The mean over all labelled images is 1. Classes without images are not counted, and their weight is 0.
    """
    labels = labels[labels != UNLABELLED]
    counts = labels.bincount(minlength=class_count)
    present = counts > 0
    return present * len(labels) / (present.sum() * counts.clamp_min(1))


def generator_losses(teachers: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(û)[label] of teachers [k, B, c] → [k, B]; 0 in unlabelled rows."""
    position = labels.clamp_min(0).expand(len(teachers), -1)[..., None]
    return -teachers.log_softmax(-1).gather(-1, position)[..., 0] * (labels != UNLABELLED)
