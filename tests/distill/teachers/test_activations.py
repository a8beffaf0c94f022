"""Conformance of parametric activations; covers every entry of ACTIVATIONS."""

import pytest
import torch
from torch import Tensor

from tkd_search.distill.teachers.activations import ACTIVATIONS, Activation

CONTROLS = {"identity", "relu"}
STARTS = [-2.0, -0.5, 0.5, 1.0, 2.0]


def problem(kind: Activation, theta0: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(3, 5, 7, generator=generator, dtype=dtype) * 2
    theta = torch.tensor(kind.start(theta0), dtype=dtype).repeat(3, 1)
    return y, theta + 0.1 * torch.randn(theta.shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
class TestConformance:
    def test_shapes_and_type_are_those_of_the_features(self, name: str) -> None:
        kind = ACTIVATIONS[name]
        for dtype in (torch.float32, torch.float64):
            y, theta = problem(kind, 1.0, dtype)
            assert kind.value(y, theta).shape == y.shape
            assert kind.value(y, theta).dtype == dtype
            assert kind.slope(y, theta).shape == (*y.shape, theta.shape[1])

    @pytest.mark.parametrize("theta0", STARTS)
    def test_slope_is_the_derivative_in_theta(self, name: str, theta0: float) -> None:
        kind = ACTIVATIONS[name]
        y, theta = problem(kind, theta0)
        slope = kind.slope(y, theta)
        for i in range(theta.shape[1]):
            step = torch.zeros_like(theta)
            step[:, i] = 1e-6
            numeric = (kind.value(y, theta + step) - kind.value(y, theta - step)) / 2e-6
            torch.testing.assert_close(slope[..., i], numeric, rtol=1e-6, atol=1e-7)

    def test_autograd_agrees_with_the_slope(self, name: str) -> None:
        if name in CONTROLS:
            pytest.skip("controls do not depend on their parameter")
        kind = ACTIVATIONS[name]
        y, theta = problem(kind, 1.0)
        theta.requires_grad_(True)
        weight = torch.randn_like(y)
        (kind.value(y, theta) * weight).sum().backward()
        expected = (kind.slope(y, theta.detach()) * weight[..., None]).sum((1, 2))
        torch.testing.assert_close(theta.grad, expected)

    @pytest.mark.parametrize("theta0", STARTS)
    def test_values_and_gradients_are_finite_at_large_inputs(self, name: str, theta0: float) -> None:
        kind = ACTIVATIONS[name]
        y = torch.tensor([-60.0, -1.0, 0.0, 1.0, 60.0]).view(1, 1, 5).requires_grad_(True)
        theta = torch.tensor(kind.start(theta0))[None].requires_grad_(True)
        value = kind.value(y, theta)
        assert value.isfinite().all()
        assert kind.slope(y.detach(), theta.detach()).isfinite().all()
        value.sum().backward()
        assert y.grad is not None
        assert y.grad.isfinite().all()

    def test_candidates_are_independent(self, name: str) -> None:
        kind = ACTIVATIONS[name]
        y, theta = problem(kind, 1.0)
        order = torch.tensor([2, 0, 1])
        torch.testing.assert_close(kind.value(y, theta)[order], kind.value(y[order], theta[order]))
        torch.testing.assert_close(kind.slope(y, theta)[order], kind.slope(y[order], theta[order]))


def at_one(name: str, y: float, theta: tuple[float, ...]) -> float:
    return float(ACTIVATIONS[name].value(torch.tensor([[[y]]]), torch.tensor([theta])))


def test_published_values() -> None:
    assert at_one("swish", 2.0, (1.0,)) == pytest.approx(2 / (1 + 2.718281828**-2))
    assert at_one("prelu", -3.0, (0.25,)) == pytest.approx(-0.75)
    assert at_one("prelu", 3.0, (0.25,)) == pytest.approx(3.0)
    assert at_one("softplus", 0.0, (1.0,)) == pytest.approx(0.0, abs=1e-6)
    assert at_one("pelu", 0.0, (1.0, 1.0)) == 0.0
    assert at_one("rational", 0.0, (0.3, 1.0, 1.0, 1.0)) == pytest.approx(0.3)
    assert at_one("rational", -2.0, (0.0, 1.0, 0.2, 0.5)) == pytest.approx((-2 + 0.8) / 2)


def test_initial_parameters() -> None:
    assert ACTIVATIONS["prelu"].start(2.0) == (0.5,)
    assert ACTIVATIONS["rational"].start(2.0) == pytest.approx((0.0, 2.0, 0.4, 0.5))
    assert ACTIVATIONS["swish"].start(1.0) == (1.0,)
