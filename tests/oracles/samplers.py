"""Multi-stage samplers in float64 NumPy, one trajectory at a time, written from the formulas.

`Line` is a process on the line as three functions of time. The noise-to-signal ratio is inverted
by bracketing, the marginal law of an affine sampler is found by probing it.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq


class Line(NamedTuple):
    """The marginal a(t), v(t) and the horizon."""

    scale: Callable
    variance: Callable
    horizon: float

    def ratio(self, t):
        return np.sqrt(self.variance(t)) / self.scale(t)


def churned_heun(process: Line, score, times, x, z, *, s_churn, s_min, s_max, s_noise):
    """Karras et al. 2022, algorithm 2, in y = x / a; `times` decrease, z has one row per step."""
    steps = len(times) - 1
    for i, (t, t_next) in enumerate(pairwise(times)):
        sigma, y = process.ratio(t), x / process.scale(t)
        gamma = min(s_churn / steps, np.sqrt(2) - 1) if s_min <= sigma <= s_max else 0.0
        target = min((1 + gamma) * sigma, process.ratio(process.horizon))
        if target > sigma:
            t = brentq(lambda u, g=target: process.ratio(u) - g, t, process.horizon, xtol=1e-14)
            y = y + s_noise * np.sqrt(target**2 - sigma**2) * z[i]
            sigma = target

        def noise(u, y):
            return -np.sqrt(process.variance(u)) * score(u, process.scale(u) * y)

        h = process.ratio(t_next) - sigma
        slope = noise(t, y)
        slope_next = noise(t_next, y + h * slope)
        x = process.scale(t_next) * (y + h * (slope + slope_next) / 2)
    return x


def dpm_solver_2m(process: Line, score, times, x):
    """Lu et al. 2022 (DPM-Solver++), algorithm 2, its first and last step of first order."""
    log_snr = [-np.log(process.ratio(t)) for t in times]
    previous = None
    for i, (t, t_next) in enumerate(pairwise(times)):
        data = (x + process.variance(t) * score(t, x)) / process.scale(t)
        h, slope = log_snr[i + 1] - log_snr[i], 0.0
        if previous is not None and i < len(times) - 2:
            r = (log_snr[i] - log_snr[i - 1]) / h
            slope = (data - previous) / (2 * r)
        std, std_next = np.sqrt(process.variance(t)), np.sqrt(process.variance(t_next))
        x = std_next / std * x - process.scale(t_next) * np.expm1(-h) * (data + slope)
        previous = data
    return x


def affine_law(sampler, noises: int, start_mean: float, start_variance: float):
    """Mean and variance of ``sampler(x, z)``, affine in a start x and in `noises` normals z."""
    zero = np.zeros(noises)
    origin = sampler(0.0, zero)
    gains = [sampler(1.0, zero) - origin]
    gains += [sampler(0.0, unit) - origin for unit in np.eye(noises)]
    variances = np.array([start_variance, *np.ones(noises)])
    return origin + gains[0] * start_mean, np.sum(np.square(gains) * variances)


def replacement_law(process: Line, times, mean, covariance, known: float, passes: int):
    """Law at the last time of ancestral sampling in the plane, whose first coordinate is replaced.

    Data N(mean, covariance); start N(0, v(T) + a(T)^2) in each coordinate; every step is taken
    `passes` times, noised up again between them. Returns mean and covariance.
    """
    m = np.zeros(2)
    c = np.eye(2) * (process.variance(times[0]) + process.scale(times[0]) ** 2)
    keep = np.diag([0.0, 1.0])
    for t, u in pairwise(times):
        a, v, b, w = process.scale(t), process.variance(t), process.scale(u), process.variance(u)
        precision = np.linalg.inv(a**2 * covariance + v * np.eye(2))
        between = v - (a / b) ** 2 * w
        posterior = w * between / v  # of x_u given x_t and x_0
        data_gain = (np.eye(2) - v * precision) / a
        data_shift = v * precision @ mean  # E[x_0 | x_t] = data_gain x_t + data_shift
        gain = b * between / v * data_gain + (a / b) * w / v * np.eye(2)
        shift = b * between / v * data_shift
        for number in range(passes):
            m, c = gain @ m + shift, gain @ c @ gain.T + posterior * np.eye(2)
            m = keep @ m + np.array([b * known, 0.0])
            c = keep @ c @ keep + np.diag([w, 0.0])
            if number < passes - 1:
                m, c = a / b * m, (a / b) ** 2 * c + between * np.eye(2)
    return m, c
