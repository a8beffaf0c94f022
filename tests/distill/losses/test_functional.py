"""Losses: known values, invariances, gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from tkd_search.distill.losses import functional

TAU = 3.0


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(8, 5, generator=generator, dtype=torch.float64),
        torch.randn(8, 5, generator=generator, dtype=torch.float64),
        torch.randint(0, 5, (8,), generator=generator),
    )


def test_kl_equals_hintons_formula(logits: tuple[torch.Tensor, ...]) -> None:
    a, z, _ = logits
    expected = F.kl_div((z / TAU).log_softmax(1), (a / TAU).softmax(1), reduction="batchmean") * TAU**2
    torch.testing.assert_close(functional.kl(a, z, TAU).mean(), expected)


def test_dkd_with_beta_of_the_teacher_equals_kl(logits: tuple[torch.Tensor, ...]) -> None:
    """KL = target KL + (1 − p_target)·non-target KL (Zhao et al. 2022, equation 5), on one target class."""
    a, z, labels = logits
    a = a[:1].expand(8, 5)
    labels = labels[:1].expand(8)
    p_target = (a / TAU).softmax(1)[0, labels[0]]
    torch.testing.assert_close(
        functional.dkd(a, z, labels, TAU, float(1 - p_target)), functional.kl(a, z, TAU).mean()
    )


@pytest.mark.parametrize("scales", [(500, 1), (1, 500), (-500, 500)])
def test_dkd_is_finite_for_certain_teachers_and_students(scales: tuple[float, float]) -> None:
    labels = torch.tensor([0, 2])
    a, z = (scale * F.one_hot(labels, 3).float() for scale in scales)
    z.requires_grad_(True)
    loss = functional.dkd(a, z, labels, TAU, 2.0)
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_dist_is_zero_for_equal_probabilities(logits: tuple[torch.Tensor, ...]) -> None:
    a, z, _ = logits
    assert float(functional.dist(a, a, TAU)) == pytest.approx(0, abs=1e-9)
    assert float(functional.dist(a, a + 3.0, TAU)) == pytest.approx(0, abs=1e-9)
    assert 0 < float(functional.dist(a, z, TAU)) < 8 * TAU
    assert functional.dist(a[:1], z[:1], TAU).isfinite()


def test_dist_has_a_bounded_gradient_for_equal_probabilities_of_all_classes(
    logits: tuple[torch.Tensor, ...],
) -> None:
    a, _, _ = logits
    z = torch.zeros(8, 5, dtype=torch.float64, requires_grad=True)
    functional.dist(a, z, TAU).backward()
    assert z.grad is not None
    assert 0 < float(z.grad.abs().max()) < 1e4


def test_dist_equals_pearsons_distance_over_classes_and_over_rows(logits: tuple[torch.Tensor, ...]) -> None:
    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        pairs = zip(a, b, strict=True)
        return torch.stack([1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean()

    a, z, _ = logits
    p, q = (a / TAU).softmax(1), (z / TAU).softmax(1)
    torch.testing.assert_close(functional.dist(a, z, TAU), 2 * TAU * (distance(p, q) + distance(p.T, q.T)))
    torch.testing.assert_close(functional.dist(a[:1], z[:1], TAU), 2 * TAU * distance(p[:1], q[:1]))


def test_relation_equals_the_kl_of_softmaxes_of_cosines(logits: tuple[torch.Tensor, ...]) -> None:
    a, z, _ = (t[:3] for t in logits)
    near, found = ((functional._others_cosines(t) / 0.1).log_softmax(1) for t in (a, z))
    expected = F.kl_div(found, near, reduction="batchmean", log_target=True)
    torch.testing.assert_close(functional.relation(a, z, 0.1), expected)


def test_relation_ignores_shift_scale_rotation_and_itself(logits: tuple[torch.Tensor, ...]) -> None:
    a, z, _ = logits
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert float(functional.relation(a, 2 * a @ rotation + 1, 0.1)) == pytest.approx(0, abs=1e-9)
    assert float(functional.relation(a, z, 0.1)) > 0
    assert functional.relation(a[:2], z[:2], 0.1) == 0
    torch.testing.assert_close(functional.relation(a, z, 0.1), functional.relation(a.flip(0), z.flip(0), 0.1))


def test_relation_excludes_a_rows_cosine_with_itself() -> None:
    features = torch.randn(4, 3, dtype=torch.float64)
    unit = F.normalize(features - features.mean(0), dim=1)
    cosines = unit @ unit.T
    expected = torch.stack([torch.cat([row[:i], row[i + 1 :]]) for i, row in enumerate(cosines)])
    torch.testing.assert_close(functional._others_cosines(features), expected)


def test_similarity_preserving_compares_relations_only(logits: tuple[torch.Tensor, ...]) -> None:
    a, z, _ = logits
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert float(functional.similarity_preserving(a, 4 * a @ rotation)) == pytest.approx(0, abs=1e-12)
    assert float(functional.similarity_preserving(a, z)) > 0
    # Four rows that are equal in one network and orthogonal in the other.
    equal, orthogonal = torch.ones(4, 2), torch.eye(4)
    assert float(functional.similarity_preserving(equal, orthogonal)) == pytest.approx(1.0)


def test_attention_transfer_depends_on_positions_only() -> None:
    maps = torch.rand(4, 6, 9, dtype=torch.float64)
    assert float(functional.attention_transfer(maps, 5 * maps.flip(1))) == pytest.approx(0, abs=1e-12)
    assert float(functional.attention_transfer(maps, maps.flip(2))) > 0
    here, there = torch.zeros(2, 4, 3, 9)
    here[..., 0], there[..., 8] = 5, -2
    assert float(functional.attention_transfer(here, there)) == pytest.approx(2.0)


def test_hint_ignores_padding() -> None:
    predicted, target = torch.full((3, 6), 4.0), torch.ones(3, 6)
    assert float(functional.hint(predicted, target, 2)) == 9.0
    predicted[:, 2:] = 9
    assert float(functional.hint(predicted, target, 2)) == 9.0


def test_generator_losses_are_cross_entropies(logits: tuple[torch.Tensor, ...]) -> None:
    a, z, labels = logits
    found = functional.generator_losses(torch.stack([a, z]), labels)
    torch.testing.assert_close(found[1], F.cross_entropy(z, labels, reduction="none"))
    torch.testing.assert_close(found[0], F.cross_entropy(a, labels, reduction="none"))


def test_balanced_class_weights_are_those_of_scikit_learn() -> None:
    labels = torch.tensor([0] * 90 + [2] * 9 + [3])
    weights = functional.balanced_class_weights(labels, 5)
    wanted = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels.numpy())
    torch.testing.assert_close(weights[[0, 2, 3]].double(), torch.tensor(wanted))
    assert weights[[1, 4]].tolist() == [0, 0]
    assert weights[labels].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weighted_label_loss_is_the_loss_of_repeated_rows(
    logits: tuple[torch.Tensor, ...], smoothing: float
) -> None:
    _, z, labels = logits
    weights = torch.arange(1, z.shape[1] + 1)
    rows = torch.arange(len(z)).repeat_interleave(weights[labels])
    repeated = functional.label_loss(z[rows], labels[rows], smoothing) * len(rows) / len(z)
    torch.testing.assert_close(functional.label_loss(z, labels, smoothing, weights), repeated)


@pytest.mark.parametrize("rows", [3, 8])
def test_gradients_reach_the_student(logits: tuple[torch.Tensor, ...], rows: int) -> None:
    a, z, labels = (t[:rows] for t in logits)
    z.requires_grad_(True)
    for loss in (
        lambda s: functional.kl(a, s, TAU).mean(),
        lambda s: functional.dist(a, s, TAU),
        lambda s: functional.dkd(a, s, labels, TAU, 2.0),
        lambda s: functional.relation(a, s, 0.5),
        lambda s: functional.similarity_preserving(a, s),
    ):
        assert torch.autograd.gradcheck(loss, z)
