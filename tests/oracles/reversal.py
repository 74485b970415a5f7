"""Gaussian laws under a reversed linear SDE with an affine score, by Runge-Kutta on the moments."""

import numpy as np


def gaussian_moments(drift, variance_rate, times, mean, variance):
    """Mean and variance at the last of `times` of dX = (k X + c) dr + g dB, from the first.

    Args:
        drift: slopes and intercepts (k, c) at given times, each (n,).
        variance_rate: g^2 at given times, (n,).
        times: increasing; classical Runge-Kutta takes one step between neighbors.
    """
    midpoints = (times[1:] + times[:-1]) / 2
    nodes = np.empty(2 * len(times) - 1)
    nodes[::2], nodes[1::2] = times, midpoints
    coefficients = np.stack([*drift(nodes), variance_rate(nodes)])

    def field(state, i):
        slope, intercept, rate = coefficients[:, i]
        return np.asarray([slope * state[0] + intercept, 2 * slope * state[1] + rate])

    state = np.asarray([mean, variance])
    for i, step in enumerate(np.diff(times)):
        first = field(state, 2 * i)
        second = field(state + step / 2 * first, 2 * i + 1)
        third = field(state + step / 2 * second, 2 * i + 1)
        fourth = field(state + step * third, 2 * i + 2)
        state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
    return float(state[0]), float(state[1])


def refined(horizon: float, end: float, steps: int):
    """Reverse times from 0 to horizon - end, finer at both ends."""
    unit = (1 - np.cos(np.pi * np.linspace(0, 1, steps + 1))) / 2
    return (horizon - end) * unit
