"""Rotary position embeddings (2104.09864).

A head's first r entries are r/2 pairs (x_i, x_{i + r/2}); the pair i of a token at position p is
rotated by the angle

    p w_i,   w_i = base^(-2i/r),                                                           (1)

so that the product of a query and a key depends on the difference of their positions only. Longer
texts than those of training are reached by slower rotations: w_i / factor (linear), or, with
n_i = length w_i / 2 pi the turns over the original length and s_i = (n_i - low) / (high - low)
clipped to [0, 1],

    (1 - s_i) w_i / factor + s_i w_i                     (Llama 3).                        (2)
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ctrl_jax.networks.language.config import LinearScaling, Rotary
from ctrl_jax.networks.layers.linear import at_least_single


def frequencies(rotary: Rotary, rotated: int) -> np.ndarray:
    """Return w_i of (1) or (2), in radians per position, shape (rotated / 2,), float64.

    Args:
        rotary: base and scaling of the rotations.
        rotated: r, entries of a head that are rotated.
    """
    plain = rotary.base ** (-np.arange(0, rotated, 2) / rotated)
    scaling = rotary.scaling
    if scaling is None:
        return plain
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor
    turns = scaling.length * plain / (2 * math.pi)
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    return (1 - kept) * plain / scaling.factor + kept * plain


def angles(
    rotary: Rotary, rotated: int, positions: Int[Array, "batch tokens"]
) -> tuple[Float[Array, "batch tokens 1 half"], Float[Array, "batch tokens 1 half"]]:
    """Return cosine and sine of every token's angles, the same for all heads."""
    rates = jnp.asarray(frequencies(rotary, rotated), jnp.float32)
    phase = (positions[..., None].astype(jnp.float32) * rates[None, None])[:, :, None]
    return jnp.cos(phase), jnp.sin(phase)


def rotate(
    x: Float[Array, "batch tokens heads width"], cosine: Array, sine: Array
) -> Float[Array, "batch tokens heads width"]:
    """Return x with the first part of every head rotated; computed in float32 at least."""
    half, exact = cosine.shape[-1], at_least_single(x.dtype)
    first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
    first, second, cosine, sine = (part.astype(exact) for part in (first, second, cosine, sine))
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), rest], axis=-1)
