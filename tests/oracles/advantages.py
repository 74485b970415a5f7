"""Advantages and returns by double loops, from their definitions."""

import numpy as np


def generalized(values, running, terminal, trace):
    """A_i = sum_k trace^k (V_{i+k+1} + r_{i+k} - V_{i+k}), with V_n the terminal reward."""
    steps, batch = values.shape
    following = np.vstack([values[1:], terminal])
    result = np.zeros((steps, batch))
    for i in range(steps):
        for k in range(steps - i):
            delta = following[i + k] + running[i + k] - values[i + k]
            result[i] += trace**k * delta
    return result


def returns_to_go(running, terminal):
    """G_i = V_n + sum_{j >= i} r_j."""
    steps = running.shape[0]
    return np.stack([terminal + sum(running[j] for j in range(i, steps)) for i in range(steps)])
