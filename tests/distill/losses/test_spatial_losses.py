"""Losses at single spatial cells: values, invariances and gradients."""

import pytest
import torch
import torch.nn.functional as F

from tkd_search.distill.losses import functional
from tkd_search.distill.losses.spatial_losses import (
    cells_on_common_grid,
    local_feature_loss,
    local_teacher_loss,
)

B, S, K, P, D, C = 5, 4, 3, 6, 7, 10


@pytest.fixture
def made() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    shapes = {
        "z": (B, S, C), "teachers": (K, B, C), "features": (K, B, S, P), "head": (K, P, C),
        "hidden": (B, S, D), "adapters": (K, P, D),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}


def teacher_loss(made: dict[str, torch.Tensor], tau: float = 2.0) -> torch.Tensor:
    return local_teacher_loss(made["z"], made["teachers"], made["features"], made["head"], tau)


def test_features_equal_in_all_cells_give_the_teacher_of_the_image(made) -> None:
    made["features"] = made["features"][:, :, :1].expand(-1, -1, S, -1)
    everywhere = made["teachers"][:, :, None].expand(-1, -1, S, -1)
    torch.testing.assert_close(teacher_loss(made), functional.kl(everywhere, made["z"], 2.0).mean((1, 2)))


def test_the_deviations_of_cells_have_mean_zero(made) -> None:
    deviation = (made["features"] - made["features"].mean(2, keepdim=True)) @ made["head"][:, None]
    torch.testing.assert_close(deviation.mean(2), torch.zeros(K, B, C, dtype=torch.float64))


def test_the_order_of_cells_does_not_matter_if_both_sides_agree(made) -> None:
    order = torch.tensor([2, 0, 3, 1])
    other = {**made, "z": made["z"][:, order], "features": made["features"][:, :, order]}
    torch.testing.assert_close(teacher_loss(other), teacher_loss(made))
    other = {**made, "features": made["features"][:, :, order]}
    assert not torch.allclose(teacher_loss(other), teacher_loss(made))


def test_permuting_teachers_permutes_losses(made) -> None:
    order = torch.tensor([1, 2, 0])
    other = {**made, **{name: made[name][order] for name in ("teachers", "features", "head")}}
    torch.testing.assert_close(teacher_loss(other), teacher_loss(made)[order])


def test_reproduced_features_have_loss_zero_and_opposite_ones_two(made) -> None:
    mask = torch.ones(K, P, dtype=torch.float64)
    targets = torch.matmul(made["hidden"], made["adapters"].transpose(1, 2)[:, None])
    loss = local_feature_loss(made["hidden"], targets, made["adapters"], mask)
    torch.testing.assert_close(loss, torch.zeros(K, dtype=torch.float64), atol=1e-9, rtol=0)
    opposite = local_feature_loss(made["hidden"], -3 * targets, made["adapters"], mask)
    torch.testing.assert_close(opposite, torch.full((K,), 2.0, dtype=torch.float64))


def test_loss_and_gradients_are_those_of_the_cosine_of_adapted_feature_and_target(made) -> None:
    mask = (torch.rand(K, P, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    targets = made["features"] * mask[:, None, None]
    hidden, adapters = made["hidden"].requires_grad_(), made["adapters"].requires_grad_()
    predicted = torch.matmul(hidden, adapters.transpose(1, 2)[:, None]) * mask[:, None, None]
    wanted = 1 - F.cosine_similarity(predicted, targets, dim=-1).mean((1, 2))
    loss = local_feature_loss(hidden, targets, adapters, mask)
    torch.testing.assert_close(loss, wanted)
    for ours, expected in zip(
        torch.autograd.grad(loss.sum(), (hidden, adapters)),
        torch.autograd.grad(wanted.sum(), (hidden, adapters)),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_a_cell_with_zero_features_gets_a_bounded_gradient(made) -> None:
    hidden = torch.zeros(B, S, D, dtype=torch.float64, requires_grad=True)
    loss = local_feature_loss(hidden, made["features"], made["adapters"], torch.ones(K, P).double())
    (gradient,) = torch.autograd.grad(loss.sum(), hidden)
    assert gradient.abs().max() < 1e4


def test_masked_channels_do_not_change_the_loss(made) -> None:
    mask = torch.ones(K, P, dtype=torch.float64)
    mask[:, P // 2 :] = 0
    targets = made["features"] * mask[:, None, None]
    other = {**made, "adapters": made["adapters"].clone()}
    other["adapters"][:, P // 2 :] += 5
    first, second = (local_feature_loss(m["hidden"], targets, m["adapters"], mask) for m in (made, other))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_cells_are_on_the_coarser_grid_of_student_and_bank(side: int) -> None:
    maps, cells = torch.randn(B, D, side, side), torch.randn(B, K, 16, P).half()
    common = cells_on_common_grid(maps, cells, 4)
    assert common is not None
    shared = min(side, 4) ** 2
    assert common.hidden.shape == (B, shared, D)
    assert common.features.shape == (K, B, shared, P)
    torch.testing.assert_close(common.hidden.mean(1), maps.mean((2, 3)))
    torch.testing.assert_close(common.features.mean(2), cells.float().mean(2).transpose(0, 1))


def test_without_maps_of_several_positions_there_are_no_cells() -> None:
    cells = torch.randn(B, K, 16, P)
    assert cells_on_common_grid(None, cells, 4) is None
    assert cells_on_common_grid(torch.randn(B, D, 1, 1), cells, 4) is None
