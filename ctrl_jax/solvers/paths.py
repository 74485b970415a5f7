"""Brownian increments keyed by (key, step, example) rather than by floating-point time.

``normal(fold_in(key, step), (batch, ...))`` gives an example the same noise on any mesh and for any
batch size (with JAX's partitionable threefry), and a solve the same noise under any equal grid.
"""

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array


class StepNoise(diffrax.AbstractPath):
    """The Brownian increment of one step: sqrt(t1 - t0) times a given standard normal."""

    noise: Array
    levy_noise: Array | None = None

    @property
    def t0(self):
        """The path serves any step."""
        return -jnp.inf

    @property
    def t1(self):
        """The path serves any step."""
        return jnp.inf

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        """Return the increment over [t0, t1], with its space-time Levy area where asked for."""
        width = jnp.asarray(t1 - t0, self.noise.dtype)
        increment = jnp.sqrt(width) * self.noise
        if not use_levy:
            return increment
        assert self.levy_noise is not None
        area = jnp.sqrt(width / 12) * self.levy_noise
        return diffrax.SpaceTimeLevyArea(dt=width, W=increment, H=area)


def step_noise(key: Array, step: Array | int, like: Array) -> Array:
    """Return the standard normal noise of a step, of the shape and dtype of `like`."""
    return jax.random.normal(jax.random.fold_in(key, step), like.shape, like.dtype)
