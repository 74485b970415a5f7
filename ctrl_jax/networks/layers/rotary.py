"""Rotary position embeddings (2104.09864).

A head's first r entries are r/2 pairs (x_i, x_{i + r/2}); the pair i of a token at position p is
rotated by the angle

    p w_i,   w_i = base^(-2i/r),                                                           (1)

so that the product of a query and a key depends on the difference of their positions only. Longer
texts than those of training are reached by slower rotations (`rotary_scaling`).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_fraction, check_positive
from ctrl_jax.networks.layers.linear import at_least_single
from ctrl_jax.networks.layers.rotary_scaling import Lengths, Scaling, attention_factor


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by angles proportional to their positions.

    Args:
        base: of the powers that are the rotations' rates.
        fraction: share of a head that is rotated.
        scaling: for texts longer than those of training; None for none.
    """

    base: float = 10_000.0
    fraction: float = 1.0
    scaling: Scaling | None = None

    def __post_init__(self):
        check_positive("Rotary.base", self.base)
        check_positive("Rotary.fraction", self.fraction)
        check_fraction("Rotary.fraction", self.fraction)


def rotated_entries(rotary: Rotary, head_width: int) -> int:
    """Return r, how many entries of a head are rotated."""
    return int(head_width * rotary.fraction)


def frequencies(
    rotary: Rotary, head_width: int, lengths: Lengths = 1
) -> np.ndarray | Float[Array, "batch tokens half"]:
    """Return the rates in radians per position, (r / 2,) in float64, or one row for each length.

    Args:
        rotary: base and scaling of the rotations.
        head_width: size of a head.
        lengths: tokens of each token's text, for scalings that depend on it.
    """
    rotated = rotated_entries(rotary, head_width)
    plain = rotary.base ** (-np.arange(0, rotated, 2) / rotated)
    return plain if rotary.scaling is None else rotary.scaling.rates(plain, rotary.base, lengths)


def angles(
    rotary: Rotary, head_width: int, positions: Int[Array, "batch tokens"], lengths: Lengths = 1
) -> tuple[Float[Array, "batch tokens 1 half"], Float[Array, "batch tokens 1 half"]]:
    """Return cosine and sine of every token's angles, the same for all heads, times the factor."""
    rates = jnp.asarray(frequencies(rotary, head_width, lengths), jnp.float32)
    rates = rates if rates.ndim == 3 else rates[None, None]
    phase = (positions[..., None].astype(jnp.float32) * rates)[:, :, None]
    factor = attention_factor(rotary.scaling)
    return factor * jnp.cos(phase), factor * jnp.sin(phase)


def rotate(
    x: Float[Array, "batch tokens heads width"], cosine: Array, sine: Array
) -> Float[Array, "batch tokens heads width"]:
    """Return x with the first part of every head rotated; computed in float32 at least."""
    half, exact = cosine.shape[-1], at_least_single(x.dtype)
    first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
    first, second, cosine, sine = (part.astype(exact) for part in (first, second, cosine, sine))
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), rest], axis=-1)
