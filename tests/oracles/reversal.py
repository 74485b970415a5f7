"""Gaussian laws under a reversed linear SDE with an affine score, by Runge-Kutta on the moments."""

import numpy as np


def gaussian_moments(coefficients_at, times, mean, variance):
    """Means and variances at the last of `times` of dX = (k X + c) dr + g dB, from the first.

    Args:
        coefficients_at: slopes, intercepts and variance rates (k, c, g^2) at given times, each
            (n, SDEs).
        times: increasing; classical Runge-Kutta takes one step between neighbors.
    """
    midpoints = (times[1:] + times[:-1]) / 2
    nodes = np.empty(2 * len(times) - 1)
    nodes[::2], nodes[1::2] = times, midpoints
    coefficients = np.stack(coefficients_at(nodes))

    def field(state, i):
        slope, intercept, rate = coefficients[:, i]
        return np.asarray([slope * state[0] + intercept, 2 * slope * state[1] + rate])

    state = np.asarray([mean, variance])[:, None]
    for i, step in enumerate(np.diff(times)):
        first = field(state, 2 * i)
        second = field(state + step / 2 * first, 2 * i + 1)
        third = field(state + step / 2 * second, 2 * i + 1)
        fourth = field(state + step * third, 2 * i + 2)
        state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
    return state


def refined(horizon: float, end: float, steps: int):
    """Reverse times from 0 to horizon - end, finer at both ends."""
    unit = (1 - np.cos(np.pi * np.linspace(0, 1, steps + 1))) / 2
    return (horizon - end) * unit
