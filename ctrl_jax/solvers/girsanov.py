r"""Girsanov: densities of one path law against another with the same diffusion.

For dX = (f + g^2 a) dr + g dB with two scores a and a' the running divergence is

    kl_rate = g^2 |a - a'|^2 / 2,                                                      (1)

and the log-ratio of the path laws, along a path driven by a with Brownian motion B, is

    log dP_a/dP_{a'} = \int g (a - a') . dB + \int kl_rate dr.                           (2)

On a grid both are exact for the chain of Gaussian steps when the step's own coefficients are used
(`solvers.gaussian_step`), which is what `log_ratio` does. Source: arXiv 2409.08400, section 3.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand, sum_each
from ctrl_jax.solvers.gaussian_step import Kernel


@at_the_door
def kl_rate(
    weight: Float[Array, "*b"], score: Float[Array, "batch ..."], other: Float[Array, "batch ..."]
) -> Float[Array, " batch"]:
    """Return weight |score - other|^2 / 2 per example, the divergence of two path laws by Girsanov.

    Those of dX = (f + g^2 a) dr + g dB with the scores a = score and a = other.

    Args:
        weight: g^2 for the rate per unit of time, or ``Kernel.kl_rate`` for the divergence of one
            step; shape () or (batch,).
        score: the score that drives the path, shape (batch, ...).
        other: the score compared with.

    Returns:
        Shape (batch,), in nats (per unit of time for the first weight).

    Raises:
        ValueError: the shapes do not fit each other.

    Source: arXiv 2409.08400, section 3.
    """
    return weight * sum_each(jnp.square(score - other)) / 2


@at_the_door
def log_ratio(
    kernel: Kernel,
    noise: Float[Array, "batch ..."],
    score: Float[Array, "batch ..."],
    other: Float[Array, "batch ..."],
) -> Float[Array, " batch"]:
    """Return log p(x' | x, score) - log p(x' | x, other) of one step made with `score` and `noise`.

    Well conditioned in float32: the shift of the mean is taken in units of the step's noise, never
    as a difference of states.

    A step without noise has no density, and zero here.

    Args:
        kernel: coefficients of the step.
        noise: the standard normal that moved the state, shape (batch, ...).
        score: the score that moved it.
        other: the score compared with.
    """
    shift = expand(kernel.exploration, noise) * (score - other)
    return sum_each(noise * shift + jnp.square(shift) / 2)
