"""Generated teachers: the stacked computation equals the equations for every candidate."""

import pytest
import torch
from torch import Tensor

from tkd_search.distill.features.taps import Tap
from tkd_search.distill.teachers.activations import ACTIVATIONS
from tkd_search.distill.teachers.generators import (
    Generators,
    candidate_names,
    channel_masks,
    parameter_norms,
    standardised,
)

WIDTHS, CLASSES, WIDTH, ROWS = [5, 8, 3], 4, 8, 6


def made_of(activation: str = "swish", masks: int = 2, theta_frozen: bool = False) -> Generators:
    return Generators(
        WIDTHS,
        CLASSES,
        width=WIDTH,
        masks=masks,
        activation=activation,
        theta0=1.0,
        theta_frozen=theta_frozen,
        generator=torch.Generator().manual_seed(0),
    ).double()


def inputs(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(rows, len(WIDTHS), WIDTH, generator=generator, dtype=torch.float64)
    return features, standardised(torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64))


def test_an_integer_theta0_gives_float_parameters() -> None:
    for activation in ACTIVATIONS:
        made = Generators(
            WIDTHS, CLASSES, width=WIDTH, masks=1, activation=activation, theta0=1, theta_frozen=False,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert made.theta.dtype == torch.float32


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_stacked_equals_the_equations(activation: str) -> None:
    gens, (features, zbar) = made_of(activation), inputs()
    made = gens(features, zbar)
    for k in range(gens.count):
        mask, theta = gens.mask[k], gens.theta[k : k + 1]
        y = features[:, k % len(WIDTHS)] * mask
        phi = gens.activation.value(y[None], theta)[0] * mask
        score = (zbar * (phi @ gens.score_weight[k].T)).sum(1) / (mask.sum() * CLASSES).sqrt()
        logits = torch.cat([y, score[:, None], zbar], 1) @ gens.head[k] + gens.bias[k]
        torch.testing.assert_close(made.logits[k], logits)
        torch.testing.assert_close(made.scores[k], score)
        torch.testing.assert_close(made.features[k], phi)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_a_subset_in_any_order_equals_the_rows_of_all(rows: int) -> None:
    gens, (features, zbar) = made_of(), inputs(rows)
    chosen = torch.tensor([4, 0, 3])
    full, subset = gens(features, zbar, slopes=True), gens(features, zbar, chosen, slopes=True)
    for whole, part in zip(full, subset, strict=True):
        torch.testing.assert_close(whole[chosen], part)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_are_the_scores_derivatives(activation: str) -> None:
    gens, (features, zbar) = made_of(activation), inputs()
    made = gens(features, zbar, slopes=True)
    numeric = []
    with torch.no_grad():
        for i in range(gens.theta.shape[1]):
            scores = []
            for step in (1e-6, -1e-6):
                gens.theta[:, i] += step
                scores.append(gens(features, zbar).scores)
                gens.theta[:, i] -= step
            numeric.append((scores[0] - scores[1]) / 2e-6)
    torch.testing.assert_close(made.slopes, torch.stack(numeric, -1), rtol=1e-6, atol=1e-7)


def test_gradients_reach_all_parameters_but_not_the_student() -> None:
    gens, (features, _) = made_of(), inputs()
    logits = torch.randn(ROWS, CLASSES, dtype=torch.float64, requires_grad=True)
    gens(features, standardised(logits), torch.tensor([1])).logits.square().sum().backward()
    assert logits.grad is None
    for name, parameter in gens.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[1].abs().sum() > 0, name
        assert parameter.grad[[0, 2, 3, 4, 5]].abs().sum() == 0, name


def test_frozen_theta_does_not_learn() -> None:
    assert not made_of(theta_frozen=True).theta.requires_grad
    assert made_of().theta.requires_grad


def test_half_precision_features_are_read_as_float() -> None:
    gens, (features, zbar) = made_of().float(), inputs()
    made = gens(features.half(), zbar.float())
    assert made.logits.dtype == torch.float32
    torch.testing.assert_close(
        made.logits, gens(features.half().float(), zbar.float()).logits, rtol=1e-6, atol=1e-6
    )


def test_masks_are_all_real_channels_then_halves_of_them() -> None:
    masks = channel_masks(WIDTHS, 3, WIDTH, torch.Generator().manual_seed(0))
    assert masks.sum(1).tolist() == [5, 8, 3, 2, 4, 1, 2, 4, 1]
    for k, mask in enumerate(masks):
        assert mask[WIDTHS[k % 3] :].sum() == 0
    again = channel_masks(WIDTHS, 3, WIDTH, torch.Generator().manual_seed(0))
    assert torch.equal(masks, again)


def test_masked_channels_do_not_change_the_output() -> None:
    gens, (features, zbar) = made_of("rational"), inputs()
    changed = features + 10 * (1 - gens.mask[:3])[None]
    torch.testing.assert_close(gens(features, zbar).logits[:3], gens(changed, zbar).logits[:3])
    assert (gens(features, zbar).features[0][:, 5:] == 0).all()


def test_standardised_logits_ignore_shift_and_scale() -> None:
    z = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(standardised(z), standardised(z * 1000 + 7), rtol=1e-2, atol=1e-2)
    assert not standardised(z.requires_grad_(True)).requires_grad


def test_standardised_logits_have_mean_zero_and_root_mean_square_one() -> None:
    found = standardised(torch.tensor([[3.0, 1.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0, -1.0, 1.0], [0.0] * 4]) / 1.001)


def test_initial_heads_are_a_scaled_identity_plus_noise() -> None:
    gens = Generators(
        [500], 200, width=500, masks=1, activation="swish", theta0=1.0, theta_frozen=False,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    of_tap, of_score, of_student = gens.head[0].detach().split([500, 1, 200])
    assert float(of_tap.std()) == pytest.approx(0.1, rel=0.05)
    assert float(of_score.std()) == pytest.approx(0.3, rel=0.2)
    torch.testing.assert_close(of_student, 0.1 * torch.eye(200))
    assert not gens.bias.any()


def test_names_and_count_of_candidates() -> None:
    taps = [Tap("a", 5, 16), Tap("b", 8, 4), Tap("logits", 3, 0, 1)]
    assert candidate_names(taps, 2) == ("a", "b", "1:logits", "a#1", "b#1", "1:logits#1")
    assert len(candidate_names(taps, 2)) == made_of().count


def test_parameter_norms_count_only_real_channels() -> None:
    gens = made_of()
    with torch.no_grad():
        gens.score_weight.fill_(2.0)
        gens.head.fill_(3.0)
    score, head = parameter_norms(gens)
    torch.testing.assert_close(score, torch.full_like(score, 2.0))
    torch.testing.assert_close(head, torch.full_like(head, 3.0))
