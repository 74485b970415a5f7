"""Gaussian data, for which score and consistency function are known for every process."""

import jax.numpy as jnp

from ctrl_jax._numerics import expand

MEAN, VARIANCE = 0.8, 0.4


def score_fn(process):
    """The score of the noised N(MEAN, VARIANCE)."""

    def score(t, x):
        scale, std = process.marginal(t)
        return -(x - expand(scale, x) * MEAN) / expand(scale**2 * VARIANCE + std**2, x)

    return score


def consistency_fn(process, end, power=1.0):
    """The exact consistency function; with another power of the ratio of stds, a wrong one."""

    def function(t, x):
        scale, std = process.marginal(t)
        scale_end, std_end = process.marginal(jnp.asarray(end, x.dtype))
        spread, spread_end = VARIANCE + (std / scale) ** 2, VARIANCE + (std_end / scale_end) ** 2
        ratio = (spread_end / spread) ** (power / 2)
        return scale_end * (MEAN + expand(ratio, x) * (x / expand(scale, x) - MEAN))

    return function
