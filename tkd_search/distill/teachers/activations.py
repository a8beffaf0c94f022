"""Parametric activations φ_θ of the generated teachers, with their derivatives in θ in closed form.

Every kind maps features y [K, B, P] and parameters θ [K, q] to φ [K, B, P]. ``slope`` is ∂φ/∂θ [K, B, P, q];
with it the gradient reward (docs/method.md, equation 7) needs no double backward. A new kind is an entry of
``ACTIVATIONS``; the conformance suite in tests/distill then tests it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG2 = math.log(2)


@dataclass(frozen=True)
class Activation:
    """One kind of activation.

    ``value(y, θ)`` and ``slope(y, θ)`` are as in the module's docstring; ``start(θ0)`` returns the initial
    parameters (length q).
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[float], tuple[float, ...]]


def _component(theta: Tensor, i: int) -> Tensor:
    return theta[:, i, None, None]


def _swish(y: Tensor, theta: Tensor) -> Tensor:
    return y * torch.sigmoid(_component(theta, 0) * y)


def _swish_slope(y: Tensor, theta: Tensor) -> Tensor:
    gate = torch.sigmoid(_component(theta, 0) * y)
    return (y * y * gate * (1 - gate))[..., None]


def _prelu(y: Tensor, theta: Tensor) -> Tensor:
    return F.relu(y) - _component(theta, 0) * F.relu(-y)


def _prelu_slope(y: Tensor, theta: Tensor) -> Tensor:
    return -F.relu(-y)[..., None]


def _softplus(y: Tensor, theta: Tensor) -> Tensor:
    b = F.softplus(_component(theta, 0)) + 0.1
    return (F.softplus(b * y) - _LOG2) / b


def _softplus_slope(y: Tensor, theta: Tensor) -> Tensor:
    b = F.softplus(_component(theta, 0)) + 0.1
    by_b = (y * torch.sigmoid(b * y) - (F.softplus(b * y) - _LOG2) / b) / b
    return (by_b * torch.sigmoid(_component(theta, 0)))[..., None]


def _pelu_ab(theta: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(_component(theta, 0)) + 0.05, F.softplus(_component(theta, 1)) + 0.05


def _pelu(y: Tensor, theta: Tensor) -> Tensor:
    a, b = _pelu_ab(theta)
    return F.relu(y) * (a / b) + a * torch.expm1(-F.relu(-y) / b)


def _pelu_slope(y: Tensor, theta: Tensor) -> Tensor:
    a, b = _pelu_ab(theta)
    up, down = F.relu(y), F.relu(-y)
    by_a = up / b + torch.expm1(-down / b)
    by_b = (a / b.square()) * (down * torch.exp(-down / b) - up)
    return torch.stack(
        [by_a * torch.sigmoid(_component(theta, 0)), by_b * torch.sigmoid(_component(theta, 1))], -1
    )


def _rational(y: Tensor, theta: Tensor) -> Tensor:
    top = _component(theta, 0) + (_component(theta, 1) + _component(theta, 2) * y) * y
    return top / (1 + (_component(theta, 3) * y).abs())


def _rational_slope(y: Tensor, theta: Tensor) -> Tensor:
    bottom = 1 + (_component(theta, 3) * y).abs()
    by_bottom = -_rational(y, theta) / bottom * y.abs() * torch.sign(_component(theta, 3))
    return torch.stack([1 / bottom, y / bottom, y * y / bottom, by_bottom], -1)


def _identity(y: Tensor, theta: Tensor) -> Tensor:
    return y


def _relu(y: Tensor, theta: Tensor) -> Tensor:
    return F.relu(y)


def _no_slope(y: Tensor, theta: Tensor) -> Tensor:
    return torch.zeros_like(y)[..., None]


ACTIVATIONS: dict[str, Activation] = {
    "swish": Activation(_swish, _swish_slope, lambda t: (t,)),
    "prelu": Activation(_prelu, _prelu_slope, lambda t: (t / 4,)),
    "softplus": Activation(_softplus, _softplus_slope, lambda t: (t,)),
    "pelu": Activation(_pelu, _pelu_slope, lambda t: (t, t)),
    "rational": Activation(_rational, _rational_slope, lambda t: (0.0, t, 0.2 * t, 0.5)),
    "identity": Activation(_identity, _no_slope, lambda t: (t,)),
    "relu": Activation(_relu, _no_slope, lambda t: (t,)),
}
"""Kinds by name; ``identity`` and ``relu`` are controls that do not depend on θ."""
