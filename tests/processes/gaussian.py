"""Gaussian data N(MEAN, VARIANCE) under any linear process: exact scores and exact end laws."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._numerics import expand
from tests.oracles.reversal import gaussian_moments, refined

MEAN, VARIANCE = 1.5, 0.25


def exact_score(process, mean=MEAN, variance=VARIANCE):
    def score_fn(t, x):
        scale, std = process.marginal(t)
        return -(x - expand(scale, x) * mean) / expand(scale**2 * variance + std**2, x)

    return score_fn


def law(process, t, mean=MEAN, variance=VARIANCE):
    """Mean and variance of the noised data at forward time t."""
    with jax.enable_x64(True):
        scale, std = (float(c) for c in process.marginal(jnp.asarray(float(t))))
    return scale * mean, scale**2 * variance + std**2


def reversed_law(sde, start, end, *, steps=2000):
    """Mean and variance at forward time `end` of a ReverseSDE with an affine score."""

    def affine(r):
        r = jnp.asarray(r)
        intercept = sde.drift(r, jnp.zeros_like(r))
        return np.asarray(sde.drift(r, jnp.ones_like(r)) - intercept), np.asarray(intercept)

    def variance_rate(r):
        return np.asarray(sde.diffusion(jnp.asarray(r))) ** 2

    with jax.enable_x64(True):
        first = sde.process.horizon - sde.process.latest
        times = first + refined(sde.process.latest, end, steps)
        return gaussian_moments(affine, variance_rate, times, *start)
