"""The square root of a variance, differentiable where there is no noise."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def square_root(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return sqrt(x) with the derivative 0 at x = 0, where the true one is infinite.

    There the variance is zero whatever the parameters, so zero is its derivative in them; infinity
    times zero would be NaN. Negative numbers give NaN as ever.
    """
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))
