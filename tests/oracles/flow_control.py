"""Steering a Gaussian through its probability flow: Riccati equations, by SciPy.

Data N(m, S) under a variance-preserving process, terminal value -k (y - c)^2 with k = w kappa / 2.
The flow dy = [f y + g^2 a / 2] ds with f = g^2 / 2 and running price g^2 |s - a|^2 has the value
J = C + B y - A y^2 with

    J_s + (f y + g^2 s / 2) J_y + g^2 J_y^2 / 16 + (theta / 2) log(pi theta / g^2) = 0,

and the mean of the optimal action is s + J_y / 4.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from tests.oracles.chains import gaussian_score
from tests.oracles.linear_sdes import VariancePreserving


class FlowControl(NamedTuple):
    process: VariancePreserving
    mean: float
    variance: float
    price: float
    target: float
    temperature: float

    def coefficients(self, s):
        """g^2 and the affine drift (slope, intercept) of the flow with the score, at time s."""
        t = self.process.horizon - s
        g2 = self.process.beta(t)
        slope, intercept = gaussian_score(self.process, t, self.mean, self.variance)
        return g2, g2 / 2 + g2 / 2 * slope, g2 / 2 * intercept

    def value(self):
        """A(s), B(s), C(s) as a function of s."""
        horizon = self.process.horizon

        def backwards(r, abc):
            a, b, _ = abc
            g2, p, q = self.coefficients(horizon - r)
            entropy = self.temperature / 2 * np.log(np.pi * self.temperature / g2)
            return [2 * p * a - g2 * a**2 / 4, p * b - 2 * q * a - g2 * a * b / 4,
                    q * b + g2 * b**2 / 16 + entropy]  # fmt: skip

        end = [self.price, 2 * self.price * self.target, -self.price * self.target**2]
        solution = solve_ivp(
            backwards, (0, horizon), end, dense_output=True, rtol=1e-11, atol=1e-12
        )
        return lambda s: solution.sol(horizon - s)

    def end_law(self, start_variance: float) -> tuple[float, float]:
        """Mean and variance of y_T from N(0, start_variance) under the optimal mean."""
        value = self.value()

        def forwards(s, moments):
            a, b, _ = value(s)
            g2, p, q = self.coefficients(s)
            slope, shift = p - g2 * a / 4, q + g2 * b / 8
            return [slope * moments[0] + shift, 2 * slope * moments[1]]

        horizon = self.process.horizon
        solution = solve_ivp(forwards, (0, horizon), [0.0, start_variance], rtol=1e-10, atol=1e-12)
        return solution.y[0, -1], solution.y[1, -1]
