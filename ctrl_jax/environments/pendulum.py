"""A pendulum with limited torque and noise: a control problem without closed form."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive
from ctrl_jax._door import at_the_door, real_as


class Pendulum(eqx.Module):
    r"""A pendulum with limited torque and noise.

    The state is the angle theta, 0 upright, and the velocity omega; with u = torque tanh(a)

        dtheta = omega dt,   domega = (g sin theta - damping omega + u) dt + noise dW,
        r = cos theta - 1 - omega^2/10 - u^2/100 <= 0,

    and maximized is E \int_0^inf e^{-beta s} [r - gamma log pi(a|X)] ds. A torque below g must
    swing the pendulum up in several goes. Feed networks `observe(x)`, in which angles one turn
    apart are one.

    Args:
        gravity: g, positive, in 1 / time^2.
        damping: positive, in 1 / time.
        noise: positive, in 1 / time^(3/2).
        torque: limit of the torque, positive, in 1 / time^2.
        discount: beta, positive, in 1 / time.
        temperature: gamma, positive, in units of the reward per nat.

    Raises:
        ValueError: an argument is not positive.
    """

    gravity: Float[Array, ""] = eqx.field(converter=real_as("Pendulum.gravity", 0), default=5.0)
    damping: Float[Array, ""] = eqx.field(converter=real_as("Pendulum.damping", 0), default=0.2)
    noise: Float[Array, ""] = eqx.field(converter=real_as("Pendulum.noise", 0), default=0.3)
    torque: Float[Array, ""] = eqx.field(converter=real_as("Pendulum.torque", 0), default=3.0)
    discount: Float[Array, ""] = eqx.field(converter=real_as("Pendulum.discount", 0), default=0.5)
    temperature: Float[Array, ""] = eqx.field(
        converter=real_as("Pendulum.temperature", 0), default=0.02
    )

    state_dimension = 2
    action_dimension = 1
    noise_dimension = 1

    def __check_init__(self):
        check_all_positive("Pendulum", **vars(self))

    @at_the_door
    def observe(self, x: Float[Array, "batch 2"]) -> Float[Array, "batch 3"]:
        """Return (cos, sin, velocity), in which a full turn changes nothing."""
        return jnp.stack([jnp.cos(x[:, 0]), jnp.sin(x[:, 0]), x[:, 1]], axis=1)

    @at_the_door
    def drift(self, x: Float[Array, "batch 2"], action: Float[Array, "batch 1"]) -> Array:
        """Return the drift (batch, 2)."""
        pull = self.gravity * jnp.sin(x[:, 0]) - self.damping * x[:, 1]
        return jnp.stack([x[:, 1], pull + self._torque(action)], axis=1)

    @at_the_door
    def diffusion(self, x: Float[Array, "batch 2"], action: Float[Array, "batch 1"]) -> Array:
        """Return the diffusion matrix (batch, 2, 1): noise moves the velocity only."""
        del action
        still = jnp.zeros_like(x[:, 0])
        return jnp.stack([still, still + self.noise], axis=1)[:, :, None]

    @at_the_door
    def reward(self, x: Float[Array, "batch 2"], action: Float[Array, "batch 1"]) -> Array:
        """Return the reward cos theta - 1 - omega^2/10 - u^2/100 per unit of time, (batch,)."""
        effort = self._torque(action) ** 2 / 100
        return jnp.cos(x[:, 0]) - 1 - x[:, 1] ** 2 / 10 - effort

    def _torque(self, action):
        return self.torque * jnp.tanh(action[:, 0])
