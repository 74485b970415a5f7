"""Any environment that offers drift, diffusion and reward of one state, made ready to control.

The simulator and the algorithms see batches and a matrix of noises (`ControlledSDE`); one writes an
environment most easily for one state and one action, and often with a noise per coordinate.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, refuse
from ctrl_jax._door import at_the_door, real_as


class Adapted(eqx.Module):
    """A `ControlledSDE` from functions of one state.

    Args:
        environment: any object with ``drift(x, action)`` of shape (d,), ``diffusion(x, action)`` of
            shape (d,) for independent noises or (d, k), and ``reward(x, action)`` of shape (), for
            x of shape (d,) and an action of shape (m,).
        state_dimension: d.
        action_dimension: m.
        discount: beta, positive, in 1 / time.
        temperature: gamma, positive, in units of the reward per nat.

    Raises:
        ValueError: a function returns another shape, discount or temperature is not positive.
    """

    environment: Any
    state_dimension: int = eqx.field(static=True)
    action_dimension: int = eqx.field(static=True)
    discount: Float[Array, ""] = eqx.field(converter=real_as("Adapted.discount", 0))
    temperature: Float[Array, ""] = eqx.field(converter=real_as("Adapted.temperature", 0))

    def __check_init__(self):
        check_all_positive("Adapted", discount=self.discount, temperature=self.temperature)
        d = self.state_dimension
        rules = {"drift": ((d,),), "reward": ((),), "diffusion": ((d,), (d, self.noise_dimension))}
        for name, shapes in rules.items():
            shape = self._shape(name)
            if shape not in shapes:
                one = f"one state {(d,)} and one action {(self.action_dimension,)}"
                rule = f"of {one} it must be {' or '.join(map(str, shapes))}"
                raise refuse(f"Adapted: shape of {name}", shape, rule, "return it for one state")

    @property
    def noise_dimension(self) -> int:
        """Number k of Brownian motions: the last axis of the diffusion."""
        return (self._shape("diffusion") or (1,))[-1]

    @at_the_door
    def drift(self, x: Float[Array, "batch d"], action: Float[Array, "batch m"]) -> Array:
        """Return the drift (batch, d)."""
        return jax.vmap(self.environment.drift)(x, action)

    @at_the_door
    def diffusion(self, x: Float[Array, "batch d"], action: Float[Array, "batch m"]) -> Array:
        """Return the diffusion matrices (batch, d, k)."""
        noise = jax.vmap(self.environment.diffusion)(x, action)
        return jax.vmap(jnp.diag)(noise) if noise.ndim == 2 else noise

    @at_the_door
    def reward(self, x: Float[Array, "batch d"], action: Float[Array, "batch m"]) -> Array:
        """Return the rewards per unit of time, (batch,)."""
        return jax.vmap(self.environment.reward)(x, action)

    def _shape(self, name):
        x, action = jnp.zeros(self.state_dimension), jnp.zeros(self.action_dimension)
        return jax.eval_shape(getattr(self.environment, name), x, action).shape
