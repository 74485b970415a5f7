r"""Brownian increments keyed by (key, step, example) rather than by floating-point time.

``normal(fold_in(key, step), (batch, ...))`` gives an example the same noise on any mesh and for any
batch size (with JAX's partitionable threefry), and a solve the same noise under any equal grid. A
solver that needs further normals in a step takes them by their index,
``normal(fold_in(fold_in(key, step), index), (batch, ...))``; index 1 is the space-time Levy area.

Two grids with different numbers of steps share normals by step, not a Brownian path. Where one path
is wanted on several grids (strong errors, common random numbers), a `BrownianPath` is drawn on the
finest grid and `coarsen` joins its steps without error: over [0, h_1] and [h_1, h_1 + h_2],

    W = W_1 + W_2,
    h (H + W / 2) = h_1 (H_1 + W_1 / 2) + h_2 (W_1 + H_2 + W_2 / 2),  h = h_1 + h_2,

where H = h^{-1} \int (W_{0,r} - (r / h) W) dr ~ N(0, h / 12) is the area, independent of W.
Source: Foster, dos Reis and Strange 2023, section 2.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, refuse
from ctrl_jax._door import at_the_door

_SUBSTEPS = 2**16  # indices of substeps, far from those of normals


class StepNoise(diffrax.AbstractPath):
    """The Brownian increment of one step: sqrt(t1 - t0) times a given standard normal.

    Args:
        noise: standard normals, shape (batch, ...).
        key: of the step, for whatever else the solver draws in it.
        levy_noise: standard normals of the space-time Levy area; drawn from `key` if None.
    """

    noise: Array
    key: Array
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
        levy_noise = self.normal(1) if self.levy_noise is None else self.levy_noise
        area = jnp.sqrt(width / 12) * levy_noise
        return diffrax.SpaceTimeLevyArea(dt=width, W=increment, H=area)

    def normal(self, index: Array | int) -> Array:
        """Return further standard normals of the step; a solver's own start at index 2."""
        return step_noise(self.key, index, self.noise)

    def substep(self, index: int) -> "StepNoise":
        """Return noise independent of this one, for a solver that steps more than once."""
        key = jax.random.fold_in(self.key, _SUBSTEPS + index)
        return StepNoise(step_noise(key, 0, self.noise), key)


class BrownianPath(eqx.Module):
    """A Brownian path on a grid, as the standard normals of its increments and Levy areas.

    Args:
        grid: increasing times, shape (steps + 1,).
        noise: increments over sqrt(width), shape (steps, batch, ...).
        levy_noise: areas over sqrt(width / 12), of the same shape.
    """

    grid: Float[Array, " points"]
    noise: Float[Array, "steps batch ..."]
    levy_noise: Float[Array, "steps batch ..."]

    @staticmethod
    @at_the_door
    def draw(key: Array, grid: Float[Array, " points"], like: Array) -> "BrownianPath":
        """Draw the path that `simulate` takes with this key, grid and a start state `like`."""

        def both(step):
            step_key = jax.random.fold_in(key, step)
            return step_noise(key, step, like), step_noise(step_key, 1, like)

        return BrownianPath(grid, *jax.vmap(both)(jnp.arange(grid.shape[0] - 1)))

    def coarsen(self, factor: int = 2) -> "BrownianPath":
        """Return the same path on every `factor`-th point of its grid.

        Raises:
            ValueError: `factor` is less than 1 or does not divide the number of steps.
        """
        steps = self.noise.shape[0]
        check_count("factor", factor)
        if steps % factor:
            raise refuse("factor", factor, f"it must divide the {steps} steps", "take a divisor")
        tail = (1,) * (self.noise.ndim - 1)
        widths = jnp.diff(self.grid).reshape(-1, factor, *tail)
        width = widths.sum(axis=1)
        w = jnp.sqrt(widths) * self.noise.reshape(-1, factor, *self.noise.shape[1:])
        area = jnp.sqrt(widths / 12) * self.levy_noise.reshape(w.shape)
        before = jnp.cumsum(w, axis=1) - w
        total = w.sum(axis=1)
        area = (widths * (before + w / 2 + area)).sum(axis=1) / width - total / 2
        return BrownianPath(
            self.grid[::factor], total / jnp.sqrt(width), area / jnp.sqrt(width / 12)
        )


def step_noise(key: Array, step: Array | int, like: Array) -> Array:
    """Return the standard normal noise of a step, of the shape and dtype of `like`."""
    return jax.random.normal(jax.random.fold_in(key, step), like.shape, like.dtype)
