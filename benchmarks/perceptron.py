"""The score that samplers are timed on: a perceptron of (x, t) with two hidden layers of 128."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

HIDDEN = 128


def make(key: Array) -> list[tuple[Array, Array]]:
    """Return kernels and biases for states in the plane."""
    sizes = (3, HIDDEN, HIDDEN, 2)
    params = []
    for i in range(3):
        normal = jax.random.normal(jax.random.fold_in(key, i), sizes[i : i + 2])
        params.append((normal / math.sqrt(sizes[i]), jnp.zeros(sizes[i + 1])))
    return params


def score(params: list[tuple[Array, Array]], t: Array, x: Array) -> Array:
    """Return the perceptron's score at one time, for one state or a batch."""
    time = jnp.broadcast_to(t, (*x.shape[:-1], 1))
    hidden = jnp.concatenate([x, time], axis=-1)
    for i, (kernel, bias) in enumerate(params):
        hidden = hidden @ kernel + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
        hidden = jax.nn.silu(hidden) if i < 2 else hidden
    return hidden - x
