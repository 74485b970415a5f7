"""Linear SDEs dX = b X dt + sigma dB in float64 NumPy: the variance-preserving formulas, and the
moment equations that hold for any coefficients."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp


class VariancePreserving(NamedTuple):
    """beta(t) = beta_min + (t / horizon) (beta_max - beta_min), a = e^{-B/2}, v = 1 - e^{-B}."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    horizon: float = 1.0

    def beta(self, t):
        return self.beta_min + np.asarray(t) / self.horizon * (self.beta_max - self.beta_min)

    def integral(self, t):
        t = np.asarray(t)
        return self.beta_min * t + t**2 * (self.beta_max - self.beta_min) / (2 * self.horizon)

    def scale(self, t):
        return np.exp(-self.integral(t) / 2)

    def variance(self, t):
        return -np.expm1(-self.integral(t))


def integrated_moments(
    rate: Callable[[float], float], sigma: Callable[[float], float], t: float
) -> tuple[float, float]:
    """a(t) and v(t) of a' = b a, v' = 2 b v + sigma^2, from a = 1, v = 0, by Runge-Kutta."""

    def field(time, moments):
        a, v = moments
        return [rate(time) * a, 2 * rate(time) * v + sigma(time) ** 2]

    solution = solve_ivp(field, (0.0, t), [1.0, 0.0], method="DOP853", rtol=1e-12, atol=1e-14)
    return solution.y[0, -1], solution.y[1, -1]
