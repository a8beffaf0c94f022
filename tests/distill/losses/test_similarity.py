"""Conformance of the feature rewards L_R, and properties of the unbiased CKA."""

import pytest
import torch
from torch import Tensor

from tkd_search.distill.losses.functional import relation
from tkd_search.distill.losses.similarity import ADAPTED, FEATURE_REWARDS, cka

KINDS = sorted(FEATURE_REWARDS)


def pair(kind: str, rows: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    targets = torch.randn(3, rows, 6, generator=generator, dtype=dtype)
    shape = (rows, 5) if kind not in ADAPTED else (3, rows, 6)
    return torch.randn(shape, generator=generator, dtype=dtype), targets


@pytest.mark.parametrize("kind", KINDS)
class TestConformance:
    def test_one_loss_per_teacher_of_the_features_type(self, kind: str) -> None:
        for dtype in (torch.float32, torch.float64):
            student, targets = pair(kind, dtype=dtype)
            loss = FEATURE_REWARDS[kind](student, targets)
            assert loss.shape == (3,)
            assert loss.dtype == dtype

    def test_permuting_teachers_permutes_losses(self, kind: str) -> None:
        student, targets = pair(kind)
        order = torch.tensor([2, 0, 1])
        permuted = student if kind not in ADAPTED else student[order]
        torch.testing.assert_close(
            FEATURE_REWARDS[kind](permuted, targets[order]), FEATURE_REWARDS[kind](student, targets)[order]
        )

    def test_order_of_rows_does_not_matter(self, kind: str) -> None:
        student, targets = pair(kind)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        shuffled = student[order] if kind not in ADAPTED else student[:, order]
        torch.testing.assert_close(
            FEATURE_REWARDS[kind](shuffled, targets[:, order]), FEATURE_REWARDS[kind](student, targets)
        )

    @pytest.mark.parametrize("rows", [4, 5, 12])
    def test_gradients_are_right_for_all_batch_sizes(self, kind: str, rows: int) -> None:
        student, targets = pair(kind, rows)
        student.requires_grad_(True)
        assert torch.autograd.gradcheck(lambda s: FEATURE_REWARDS[kind](s, targets), student)

    def test_equal_features_have_loss_zero(self, kind: str) -> None:
        _, targets = pair(kind)
        student = targets[0] if kind not in ADAPTED else targets
        assert float(FEATURE_REWARDS[kind](student, targets)[0]) == pytest.approx(0, abs=1e-6)

    def test_constant_features_give_finite_losses_and_gradients(self, kind: str) -> None:
        student, targets = pair(kind)
        student = torch.ones_like(student).requires_grad_(True)
        loss = FEATURE_REWARDS[kind](student, torch.ones_like(targets)).sum()
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_known_values_of_the_adapted_kinds() -> None:
    predicted = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    targets = torch.tensor([[[1.0, 0.0], [5.0, 0.0]]])
    assert float(FEATURE_REWARDS["cos"](predicted, targets)) == pytest.approx(1 - (1 + 0) / 2)
    assert float(FEATURE_REWARDS["mse"](predicted, targets)) == pytest.approx((4 + 25 + 4) / 4)


def test_the_relation_reward_has_temperature_a_tenth() -> None:
    student, targets = pair("relation")
    expected = torch.stack([relation(target, student, 0.1) for target in targets])
    torch.testing.assert_close(FEATURE_REWARDS["relation"](student, targets), expected)


def test_cka_of_independent_features_is_zero_for_all_widths() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [
        float(cka(torch.randn(128, 64, generator=generator), torch.randn(128, 96, generator=generator)))
        for _ in range(20)
    ]
    assert abs(sum(values) / 20) < 0.03


def test_cka_equals_the_formula_of_the_unbiased_hsic() -> None:
    """The formula is equation 5 of Song et al. (2012)."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, 4, generator=generator).double(), torch.randn(9, 7, generator=generator).double()

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        n = len(a)
        k, m = a @ a.T, b @ b.T
        k, m = k - k.diag().diag(), m - m.diag().diag()
        cross = (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
        return cross / (n * (n - 3))

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    torch.testing.assert_close(cka(x, y), expected)


def test_cka_ignores_rotation_shift_and_scale() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(30, 5, generator=generator).double(), torch.randn(30, 6, generator=generator).double()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    torch.testing.assert_close(cka(3 * x @ rotation + 2, y), cka(x, y))
