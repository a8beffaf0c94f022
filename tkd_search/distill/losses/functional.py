"""The losses of the method and of its baselines, as functions of logits and features.

Logits of teachers come first, the student's second; gradients are meant to reach the student alone.
"""

import torch.nn.functional as F
from torch import Tensor


def kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)) over the last axis (Hinton et al. 2015)."""
    log_p = (teacher / tau).log_softmax(-1)
    log_q = (student / tau).log_softmax(-1)
    return tau * tau * (log_p.exp() * (log_p - log_q)).sum(-1)


_SMALLEST_DEVIATION = 1e-4
"""A student's probabilities that deviate less than this from their mean (as a vector) count as this far.

A last layer that starts at zero (torchvision's ViT) says the same of all classes: there a correlation has no
slope, or an endless one, and one such gradient in AdamW's second moment stops the training for good.
"""


def _pearson_loss(teacher: Tensor, student: Tensor, dim: int) -> Tensor:
    """1 − mean Pearson correlation along ``dim``; its gradient is bounded."""
    a = F.normalize(teacher - teacher.mean(dim, keepdim=True), dim=dim)
    b = student - student.mean(dim, keepdim=True)
    length = b.square().sum(dim).clamp_min(_SMALLEST_DEVIATION**2).sqrt()
    return 1 - ((a * b).sum(dim) / length).mean()


def dist(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """DIST (Huang et al. 2022): 1 − Pearson correlation over classes and over rows, 2τ each; a scalar.

    Both [B, c]. One row alone has no correlation over rows: that part is then left out.
    """
    p, q = (teacher / tau).softmax(-1), (student / tau).softmax(-1)
    between = _pearson_loss(p, q, 1)
    within = _pearson_loss(p, q, 0) if len(p) > 1 else between.new_zeros(())
    return 2 * tau * (between + within)


def dkd(teacher: Tensor, student: Tensor, labels: Tensor, tau: float, beta: float) -> Tensor:
    """Decoupled KD (Zhao et al. 2022): τ²·(target-class KL + β·non-target KL), mean over rows [B, c]."""
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
    """KL between what row b is near to in the teacher's [B, D] and in the student's features [B, d].

    Nearness is a softmax over the other rows of cosines of centred features, at temperature τ. A scalar;
    0 under 3 rows.
    """
    rows = len(student)
    if rows < 3:
        return student.new_zeros(())
    return kl(_others_cosines(teacher), _others_cosines(student), tau).mean() / (tau * tau)


def _others_cosines(features: Tensor) -> Tensor:
    """Cosines [B, B − 1] of every row's centred features with all other rows'."""
    unit = F.normalize(features - features.mean(0), dim=1, eps=1e-6)
    cosines, rows = unit @ unit.T, len(unit)
    # Dropping the diagonal: in the flattened matrix it sits at every (B + 1)-th place.
    return cosines.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)


def similarity_preserving(teacher: Tensor, student: Tensor) -> Tensor:
    """SP (Tung and Mori 2019): squared distance of row-normalised Gram matrices of [B, D] and [B, d], ÷ B.

    The paper divides by B² and weighs by thousands; ÷ B keeps a weight of 1 sensible at any batch size.
    """
    return (F.normalize(teacher @ teacher.T) - F.normalize(student @ student.T)).square().sum() / len(student)


def attention_transfer(teacher: Tensor, student: Tensor) -> Tensor:
    """AT (Zagoruyko and Komodakis 2017): distance of where energy sits, [B, D, S] and [B, d, S]; a scalar.

    A map's attention is its mean square over channels per place, normalised over the S places.
    """
    a = F.normalize(teacher.square().mean(1), dim=1)
    b = F.normalize(student.square().mean(1), dim=1)
    return (a - b).square().sum(1).mean()


def hint(predicted: Tensor, target: Tensor, real: int) -> Tensor:
    """FitNet's hint (Romero et al. 2015): mean squared difference over rows and the target's real channels.

    Both [B, P]; channels past ``real`` are padding.
    """
    return (predicted[:, :real] - target[:, :real]).square().mean()


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of [B, c] with labels [B], mean over rows."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def generator_losses(made: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(û)[label] of teachers [k, B, c] → [k, B]."""
    where = labels.expand(len(made), -1)[..., None]
    return -made.log_softmax(-1).gather(-1, where)[..., 0]
