"""Dropout whose randomness is an argument: a key to drop, none to keep everything.

A mask is drawn from the key for the whole batch at once; with JAX's partitionable threefry it is
the same on any mesh.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Return x with entries set to zero with probability `rate` and the others scaled up.

    Args:
        x: any array.
        rate: probability in [0, 1).
        key: PRNG key; None returns x as it is, as in evaluation.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def key_stream(key: Array | None) -> Iterator[Array | None]:
    """Yield one key after another for the blocks of a network; Nones where there is no key."""
    for index in itertools.count():
        yield None if key is None else jax.random.fold_in(key, index)
