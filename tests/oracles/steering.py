"""Steering a Gaussian mixture on the line by quadrature: nothing but densities and integrals."""

from typing import NamedTuple

import numpy as np

from tests.oracles.linear_sdes import VariancePreserving


class Steering(NamedTuple):
    """Data sum_i W_i N(m_i, S_i), reward -(curvature / 2) (x - target)^2, penalty lambda."""

    process: VariancePreserving
    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    curvature: float
    target: float
    penalty: float

    def grid(self, points: int = 40001):
        reach = 12 * np.sqrt(self.variances.max())
        return np.linspace(self.means.min() - reach, self.means.max() + reach, points)

    def density(self, x):
        x = np.asarray(x)[..., None]
        square = (x - self.means) ** 2 / (2 * self.variances)
        return np.sum(self.weights * np.exp(-square) / np.sqrt(2 * np.pi * self.variances), axis=-1)

    def reward(self, x):
        return -self.curvature / 2 * (x - self.target) ** 2

    def tilted(self):
        """Points and the normalized density p e^{R / lambda} / Z on them."""
        x = self.grid()
        density = self.density(x) * np.exp(self.reward(x) / self.penalty)
        return x, density / np.trapezoid(density, x)

    def posterior(self, t: float, y: float):
        """Points and the normalized density of X_0 given X_s = y at sampler's time t = T - s."""
        s = self.process.horizon - t
        x = self.grid()
        kernel = np.exp(-((y - self.process.scale(s) * x) ** 2) / (2 * self.process.variance(s)))
        density = self.density(x) * kernel
        return x, density / np.trapezoid(density, x)

    def value(self, t: float, y: float) -> float:
        """V = lambda log E[e^{R(X_0) / lambda} | X_s = y]."""
        x, density = self.posterior(t, y)
        mean = np.trapezoid(density * np.exp(self.reward(x) / self.penalty), x)
        return self.penalty * np.log(mean)

    def start_variance(self) -> float:
        return float(self.process.variance(self.process.horizon))

    def mean_value(self, variance: float | None = None) -> float:
        """E V(0, Y) for Y ~ N(0, variance), the start law N(0, v(T)) by default."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        scale = np.sqrt(self.start_variance() if variance is None else variance)
        return sum(w * self.value(0.0, scale * z) for z, w in zip(nodes, weights, strict=True)) / (
            np.sqrt(2 * np.pi)
        )


def one_gaussian(process, mean, variance, curvature, target, penalty) -> Steering:
    one = np.ones(1)
    return Steering(process, one, mean * one, variance * one, curvature, target, penalty)
