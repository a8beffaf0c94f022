"""The gradient reward: its closed form equals autograd in double precision; properties of its bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tkd_search.distill.losses.gradient_reward import BOUNDS, gradient_length, lookahead, theta_gradient
from tkd_search.distill.teachers.activations import ACTIVATIONS
from tkd_search.distill.teachers.generators import Generators, standardised

ROWS, CLASSES, TAU = 7, 5, 2.0


def generators(activation: str) -> Generators:
    generator = torch.Generator().manual_seed(3)
    made = Generators(
        [6, 4],
        CLASSES,
        width=6,
        masks=2,
        activation=activation,
        theta0=0.7,
        theta_frozen=False,
        generator=generator,
    )
    return made.double()


def agreement(gens: Generators, features: Tensor, logits: Tensor) -> Tensor:
    """Return J_k."""
    p = (gens(features, standardised(logits)).logits / TAU).log_softmax(-1)
    q = (logits / TAU).log_softmax(-1)
    return TAU**2 * (p.exp() * (p - q)).sum(-1).mean(1)


def closed_form(gens: Generators, features: Tensor, logits: Tensor) -> Tensor:
    made = gens(features, standardised(logits), slopes=True)
    log_p = (made.logits / TAU).log_softmax(-1).detach()
    log_q = (logits / TAU).log_softmax(-1)
    assert made.slopes is not None
    return theta_gradient(log_p, log_q, gens.head[:, gens.width].detach(), made.slopes, TAU)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_closed_form_is_the_gradient_of_j(activation: str) -> None:
    gens = generators(activation)
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(ROWS, 2, 6, generator=generator, dtype=torch.float64)
    logits = 2 * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    found = closed_form(gens, features, logits)
    if activation in ("identity", "relu"):
        assert found.abs().max() == 0
        return
    # J_k depends on θ_k alone, so the gradient of the sum holds every ∇_θk J_k.
    (exact,) = torch.autograd.grad(agreement(gens, features, logits).sum(), gens.theta)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)


def test_its_gradient_in_the_student_equals_double_backward() -> None:
    gens = generators("swish")
    features = torch.randn(ROWS, 2, 6, dtype=torch.float64)
    logits = torch.randn(ROWS, CLASSES, dtype=torch.float64, requires_grad=True)
    zbar = standardised(logits)
    (ours,) = torch.autograd.grad(gradient_length(closed_form(gens, features, logits)).sum(), logits)
    p = (gens(features, zbar).logits / TAU).log_softmax(-1)
    q = (logits / TAU).log_softmax(-1)
    j = TAU**2 * (p.exp() * (p - q)).sum(-1).mean(1)
    (slope,) = torch.autograd.grad(j.sum(), gens.theta, create_graph=True)
    (theirs,) = torch.autograd.grad(gradient_length(slope).sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_length_is_differentiable_at_zero() -> None:
    gradient = torch.zeros(2, 3, requires_grad=True)
    gradient_length(gradient).sum().backward()
    assert gradient.grad is not None
    assert gradient.grad.isfinite().all()


@pytest.mark.parametrize("name", BOUNDS)
@given(step=st.floats(0, 1e6), loss=st.floats(0, 100))
def test_every_bound_lies_between_zero_and_the_step(name: str, step: float, loss: float) -> None:
    x, j = torch.tensor([step], dtype=torch.float64), torch.tensor([loss], dtype=torch.float64)
    value = float(BOUNDS[name](x, j))
    assert -1e-12 <= value <= step * (1 + 1e-9)


@given(step=st.floats(0, 1e6), loss=st.floats(0, 100))
def test_the_lookahead_reward_never_exceeds_the_loss(step: float, loss: float) -> None:
    x, j = torch.tensor(step, dtype=torch.float64), torch.tensor(loss, dtype=torch.float64)
    assert float(lookahead(x, j)) <= loss + 1e-6 + 1e-12


@pytest.mark.parametrize("name", BOUNDS)
def test_small_steps_are_rewarded_in_full(name: str) -> None:
    x, j = torch.tensor([1e-5], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    torch.testing.assert_close(BOUNDS[name](x, j), x, rtol=1e-4, atol=0)


def test_large_steps_are_bounded_by_the_loss() -> None:
    far, j = torch.tensor([1e6], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    found = {name: float(BOUNDS[name](far, j)) for name in BOUNDS}
    assert found == pytest.approx({"raw": 1e6, "lookahead": 2.0, "tanh": 0.1}, rel=1e-5)
    assert float(lookahead(j, j)) == pytest.approx(2 * (1 - math.exp(-1)), rel=1e-5)
