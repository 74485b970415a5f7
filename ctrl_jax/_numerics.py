"""Small array functions that every floor shares."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def real(value: Any) -> Array:
    """Return a number, nested sequence or array as an array of the default real type."""
    return jnp.asarray(value, float)


def times(t: Any) -> Array:
    """Return times as floating numbers, whole ones in the default real type."""
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def constant(value: Any, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
    """Return `value` in the shape of t and in its type, or in the default one for integer times."""
    t = times(t)
    return jnp.full(t.shape, value, t.dtype)


def expand(coefficient: Float[Array, "..."] | float, x: Array) -> Array:
    """Append axes to `coefficient` (shape ``()`` or ``(batch,)``) until it broadcasts over `x`."""
    coefficient = jnp.asarray(coefficient)
    return coefficient.reshape(coefficient.shape + (1,) * (jnp.ndim(x) - coefficient.ndim))


def square_root(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return sqrt(x) with the derivative 0 at x = 0, where the true one is infinite.

    There the variance is zero whatever the parameters, so zero is its derivative in them; infinity
    times zero would be NaN. Negative numbers give NaN as ever.
    """
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def _rows(x: Array) -> Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 is not known of an empty batch


def sum_each(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Return the sum over all axes but the first: one value per example."""
    return jnp.sum(_rows(x), axis=1)


def mean_each(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Return the mean over all axes but the first: one value per example."""
    return jnp.mean(_rows(x), axis=1)


def all_each(x: Array) -> Array:
    """Return whether all of an example is true, shape (batch,)."""
    return jnp.all(_rows(x), axis=1)


def failure_of(states: Float[Array, "points batch ..."]) -> Int[Array, " batch"]:
    """Return each example's first point that is not finite, -1 where there is none."""
    finite = jax.vmap(all_each)(jnp.isfinite(states))
    return jnp.where(jnp.all(finite, axis=0), -1, jnp.argmin(finite, axis=0))


def soft_cap(x: Array, cap: float | None) -> Array:
    """Return cap tanh(x / cap), x within (-cap, cap); x itself without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def discounted_sums(
    terms: Float[Array, "steps ..."],
    factor: Float[Array, "..."] | float,
    end: Float[Array, "..."] | None = None,
) -> Float[Array, "steps ..."]:
    """Return S_i = terms_i + factor_i S_{i+1} for every step, by one scan backwards in time.

    Args:
        terms: time-major.
        factor: one number, or one for each step, shape (steps,).
        end: S at the last time, of the shape of one term; zero by default.
    """
    factors = jnp.broadcast_to(jnp.asarray(factor, terms.dtype), terms.shape[:1])
    start = jnp.zeros_like(terms[0]) if end is None else end

    def backwards(later, step):
        term, factor = step
        now = term + factor * later
        return now, now

    return jax.lax.scan(backwards, start, (terms, factors), reverse=True)[1]
