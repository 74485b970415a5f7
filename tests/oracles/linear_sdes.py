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


class LinearSDE(NamedTuple):
    """Coefficients b(t) and sigma^2(t) on [0, horizon], from the scale and variance at t = 0."""

    rate: Callable[[float], float]
    variance_rate: Callable[[float], float]
    horizon: float = 1.0
    scale: float = 1.0
    variance: float = 0.0
    last: float = 1.0  # of the horizon: up to where the coefficients stay bounded

    def moments(self, times) -> tuple[np.ndarray, np.ndarray]:
        """a and v at increasing times, by integration of the moment equations."""

        def field(t, moments):
            a, v = moments
            return [self.rate(t) * a, 2 * self.rate(t) * v + self.variance_rate(t)]

        solution = solve_ivp(
            field,
            (0.0, times[-1]),
            [self.scale, self.variance],
            method="DOP853",
            rtol=1e-11,
            atol=1e-15,
            t_eval=times,
            max_step=self.horizon / 200,
        )
        return solution.y[0], solution.y[1]


def linear_rate(beta_min: float, beta_max: float, horizon: float = 1.0):
    """beta and its integral B."""
    line = VariancePreserving(beta_min, beta_max, horizon)
    return line.beta, line.integral


def cosine_rate(offset: float, beta_max: float, horizon: float = 1.0):
    """beta and B of the cosine schedule, clipped at beta_max / horizon: B by differences of the
    logarithm of the signal where the rate is not clipped."""

    def angle(t):
        return (t / horizon + offset) / (1 + offset) * np.pi / 2

    def free(t):
        return np.pi / (1 + offset) / horizon * np.tan(angle(t))

    clip = horizon * (
        (1 + offset) * 2 / np.pi * np.arctan(beta_max * (1 + offset) / np.pi) - offset
    )

    def beta(t):
        return free(t) if t < clip else beta_max / horizon

    def integral(t):
        signal = np.cos(angle(min(t, clip))) ** 2 / np.cos(angle(0.0)) ** 2
        return -np.log(signal) + beta_max / horizon * max(t - clip, 0.0)

    return beta, integral


def ornstein_uhlenbeck(rate: float, sigma: float, horizon: float = 1.0) -> LinearSDE:
    return LinearSDE(lambda t: rate, lambda t: sigma**2, horizon)


def variance_exploding(
    low: float, high: float, horizon: float = 1.0, start: float = 0.0
) -> LinearSDE:
    log_ratio = np.log(high / low)
    return LinearSDE(
        lambda t: 0.0,
        lambda t: 2 * log_ratio / horizon * low**2 * np.exp(2 * log_ratio * t / horizon),
        horizon,
        variance=start**2,
    )


def variance_preserving(schedule, *, sign: int = -1, horizon: float = 1.0) -> LinearSDE:
    """sign = +1 for the contractive twin."""
    beta, _ = schedule
    return LinearSDE(lambda t: sign * beta(t) / 2, beta, horizon)


def sub_variance_preserving(schedule, *, sign: int = -1, horizon: float = 1.0) -> LinearSDE:
    """sign = +1 for the contractive twin."""
    beta, integral = schedule
    return LinearSDE(
        lambda t: sign * beta(t) / 2,
        lambda t: beta(t) * sign * np.expm1(sign * 2 * integral(t)),
        horizon,
    )


def scaled_noise(sigma_max: float, scale: float) -> LinearSDE:
    """s(t) (x_0 + t e) with s a straight line from `scale` to 1."""
    slope = (1 - scale) / sigma_max

    def s(t):
        return scale + slope * t

    return LinearSDE(lambda t: slope / s(t), lambda t: 2 * s(t) ** 2 * t, sigma_max, scale=scale)


def straight_lines(horizon: float = 1.0) -> LinearSDE:
    """(1 - t/T) x_0 + (t/T) e; its coefficients have no bound at the horizon, where a = 0."""

    def pull(t):
        return 1 / (horizon - t) if t < horizon else np.inf

    return LinearSDE(lambda t: -pull(t), lambda t: 2 * t / horizon * pull(t), horizon, last=0.999)


def stepwise_rate(betas, horizon: float = 1.0):
    """beta constant over each discrete step of a given beta, and B."""
    steps = -np.log1p(-np.asarray(betas))

    def beta(t):
        return steps[min(int(t / horizon * len(steps)), len(steps) - 1)] * len(steps) / horizon

    def integral(t):
        return np.sum(steps * np.clip(t / horizon * len(steps) - np.arange(len(steps)), 0, 1))

    return beta, integral
