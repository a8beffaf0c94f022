"""Gaussian-process regression for a few hundred trials: Matérn-5/2 plus a linear part, fitted by MAP.

Small and exact, so that a suggestion takes milliseconds. The prior on the lengths is that of Hvarfner et al.
2024 (centred at a multiple of √dimensions, √3 wide in logarithms; a smaller multiple than theirs): with few
trials every leaf has a small effect, and more trials shorten the lengths of the leaves that matter.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]

Array = NDArray[np.float64]
_ROOT5 = math.sqrt(5.0)
_JITTER = 1e-6
_MIDDLE = 0.5
NOISE = -2.4
LINEAR = -4.5
LENGTH = 0.6
"""Centres of the priors, in logarithms (the lengths' for one leaf); see docs/search-notes.md."""


@dataclass(frozen=True)
class Hyperparameters:
    """Logarithms of the kernel's parameters, for standardised targets.

    Attributes:
        lengths: of the leaves [L].
        signal: variance of the smooth part.
        linear: variance of the slope of each feature. Many small effects, each too small for a length to be
            told from noise, are together a large part of the variance of noisy trials.
        noise: variance of an observation about the function.
    """

    lengths: Array
    signal: float
    linear: float
    noise: float

    @property
    def vector(self) -> Array:
        """All parameters in one array, for the optimiser."""
        return np.append(self.lengths, [self.signal, self.linear, self.noise])

    @classmethod
    def prior(cls, leaves: int) -> "Hyperparameters":
        """Return the prior's centre."""
        return cls(np.full(leaves, 0.5 * math.log(max(leaves, 1)) + LENGTH), 0.0, LINEAR, NOISE)


def fit(inputs: Array, targets: Array, variances: Array, groups: NDArray[np.int_]) -> Hyperparameters:
    """Return the maximum a posteriori hyperparameters.

    Args:
        inputs: features [n, D].
        targets: observations [n].
        variances: known noise variance of each observation beyond the common one [n].
        groups: leaf of each feature [D], 0 … L − 1; features of a leaf share its length.
    """
    leaves = int(groups.max()) + 1 if len(groups) else 0
    prior = Hyperparameters.prior(leaves)
    scaled, _, scale = _standardised(targets)
    distances = np.stack([_squared(inputs[:, groups == leaf]) for leaf in range(leaves)])
    known = variances / scale**2 + _JITTER
    bounds = [(-3.0, 5.0)] * leaves + [(-3.0, 3.0), (-9.0, 1.0), (-9.0, 1.0)]
    found = minimize(
        _loss,
        prior.vector,
        args=(distances, _gram(inputs, inputs), scaled, known, prior.vector),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 30},
    ).x
    return Hyperparameters(found[:leaves], *map(float, found[leaves:]))


def _loss(
    vector: Array, distances: Array, gram: Array, targets: Array, known: Array, centre: Array
) -> tuple[float, Array]:
    """Return the negative log posterior and its gradient; distances [L, n, n] are squared, per leaf."""
    leaves = len(distances)
    weights, (signal, linear, noise) = np.exp(-2 * vector[:leaves]), np.exp(vector[-3:]).tolist()
    squared = np.tensordot(weights, distances, 1)
    r = np.sqrt(squared + 1e-12)
    decay = np.exp(-_ROOT5 * r)
    matern = (1 + _ROOT5 * r + 5 / 3 * squared) * decay
    factor = np.linalg.cholesky(signal * matern + linear * gram + np.diag(noise + known))
    inverse = cho_solve((factor, True), np.eye(len(targets)))
    alpha = inverse @ targets
    outer = 0.5 * (inverse - np.outer(alpha, alpha))
    by_distance = outer * (-5 / 6 * signal) * (1 + _ROOT5 * r) * decay
    off = vector - centre
    # Precisions of the priors: of the lengths 1 ÷ √3², then of signal, linear part and noise.
    stiffness = np.append(np.full(leaves, 1 / 3), [0.2, 0.3, 1 / 1.5**2])
    loss = 0.5 * targets @ alpha + np.log(np.diag(factor)).sum() + 0.5 * (stiffness * off**2).sum()
    gradient = stiffness * off
    gradient[:leaves] += np.tensordot(distances, by_distance, 2) * (-2 * weights)
    gradient[-3] += signal * (outer * matern).sum()
    gradient[-2] += linear * (outer * gram).sum()
    gradient[-1] += noise * np.trace(outer)
    return float(loss), gradient


class Posterior:
    """The posterior of the function, given observations.

    Args:
        inputs: features [n, D].
        targets: observations [n].
        variances: known extra noise variance of each observation [n].
        groups: leaf of each feature [D].
        hyperparameters: of the kernel.

    Attributes:
        noise: standard deviation of an observation about the function, in the targets' unit.
    """

    def __init__(
        self,
        inputs: Array,
        targets: Array,
        variances: Array,
        groups: NDArray[np.int_],
        hyperparameters: Hyperparameters,
    ) -> None:
        self._scales = np.exp(-hyperparameters.lengths)[groups]
        self._signal, self._linear = math.exp(hyperparameters.signal), math.exp(hyperparameters.linear)
        scaled, self._mean, self._scale = _standardised(targets)
        self._inputs = inputs
        covariance = self._kernel(inputs, inputs)
        noise = math.exp(hyperparameters.noise) + variances / self._scale**2 + _JITTER
        self._factor = np.linalg.cholesky(covariance + np.diag(noise))
        self._alpha = cho_solve((self._factor, True), scaled)
        self.noise = self._scale * math.exp(hyperparameters.noise / 2)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation [n] of the function (without noise) at features [n, D]."""
        covariance = self._kernel(inputs, self._inputs)
        explained = (solve_triangular(self._factor, covariance.T, lower=True) ** 2).sum(axis=0)
        before = self._signal + self._linear * ((inputs - _MIDDLE) ** 2).sum(axis=1)
        deviation = np.sqrt(np.maximum(before - explained, 1e-10))
        return self._mean + self._scale * (covariance @ self._alpha), self._scale * deviation

    def _kernel(self, a: Array, b: Array) -> Array:
        gram = self._linear * _gram(a, b)
        a, b = a * self._scales, b * self._scales
        squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
        r = np.sqrt(np.maximum(squared, 0.0))
        return np.asarray(self._signal * (1 + _ROOT5 * r + 5 / 3 * r**2) * np.exp(-_ROOT5 * r) + gram)


def _standardised(targets: Array) -> tuple[Array, float, float]:
    mean, scale = float(targets.mean()), max(float(targets.std()), 1e-6)
    return (targets - mean) / scale, mean, scale


def _gram(a: Array, b: Array) -> Array:
    """Return the covariance [n, m] of a linear function with unit slope variances, 0 in the cube's middle."""
    return np.asarray((a - _MIDDLE) @ (b - _MIDDLE).T)


def _squared(columns: Array) -> Array:
    return np.asarray(((columns[:, None, :] - columns[None, :, :]) ** 2).sum(axis=-1))
