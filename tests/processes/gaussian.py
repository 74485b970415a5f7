"""Gaussian data N(MEAN, VARIANCE) under any linear process: exact scores and exact end laws."""

import jax.numpy as jnp
import numpy as np

from ctrl_jax._numerics import expand
from tests.oracles.reversal import gaussian_moments, refined
from tests.processes.compiled import in_double

MEAN, VARIANCE = 1.5, 0.25


def exact_score(process, mean=MEAN, variance=VARIANCE):
    def score_fn(t, x):
        scale, std = process.marginal(t)
        return -(x - expand(scale, x) * mean) / expand(scale**2 * variance + std**2, x)

    return score_fn


def laws(process, *times, mean=MEAN, variance=VARIANCE):
    """Mean and variance of the noised data at each forward time."""
    scales, stds = in_double(process.marginal, np.asarray(times, float))
    return [(a * mean, a**2 * variance + std**2) for a, std in zip(scales, stds, strict=True)]


def reversed_law(sdes, start, end, *, steps=2000):
    """Means and variances at forward time `end` of each ReverseSDE with an affine score.

    Args:
        sdes: of one process.
        start: mean and variance where they begin.
        end: forward time.
        steps: of Runge-Kutta.
    """

    def affine(r):
        """Slopes, intercepts and variance rates, each (n, SDEs)."""
        zero, one = jnp.zeros_like(r), jnp.ones_like(r)
        rows = [(sde.drift(r, zero), sde.drift(r, one), sde.diffusion(r)) for sde in sdes]
        intercept, total, sigma = (jnp.stack(column, axis=1) for column in zip(*rows, strict=True))
        return total - intercept, intercept, sigma**2

    process = sdes[0].process
    times = process.horizon - process.latest + refined(process.latest, end, steps)
    return gaussian_moments(lambda r: in_double(affine, r), times, *start)
