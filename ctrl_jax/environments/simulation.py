r"""Simulating a controlled SDE under a randomized policy, by Euler-Maruyama.

    a_i ~ \pi(. | x_i),  x_{i+1} = x_i + b(x_i, a_i) h + \sigma(x_i, a_i) \sqrt{h} z_i,     (1)

the action drawn anew at every step. As h -> 0 the state converges in law to the exploratory
dynamics, whose drift and squared diffusion are averaged over the policy. Draws of step i are keyed
by (key, i). Source: arXiv 2305.18901, section 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import check_count, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import failure_of

PolicyFn = Callable[[Array], tuple[Array, Array]]
"""``policy(x)`` returns mean and standard deviation (batch, m) of the actions at x (batch, d)."""


@runtime_checkable
class ControlledSDE(Protocol):
    """What the simulator and the algorithms ask of an environment with infinite horizon.

    `Adapted` makes one from functions of a single state.
    """

    @property
    def state_dimension(self) -> int:
        """Dimension d of the state."""
        ...

    @property
    def action_dimension(self) -> int:
        """Dimension m of the action."""
        ...

    @property
    def noise_dimension(self) -> int:
        """Number k of Brownian motions."""
        ...

    @property
    def discount(self) -> Any:
        """beta, in 1 / time, an array of shape ()."""
        ...

    @property
    def temperature(self) -> Any:
        """gamma, in units of the reward per nat, an array of shape ()."""
        ...

    def drift(self, x: Array, action: Array) -> Array:
        """Return the drift (batch, d) at states (batch, d) and actions (batch, m)."""
        ...

    def diffusion(self, x: Array, action: Array) -> Array:
        """Return the diffusion matrices (batch, d, k)."""
        ...

    def reward(self, x: Array, action: Array) -> Array:
        """Return the rewards per unit of time, (batch,)."""
        ...


class ControlledPath(NamedTuple):
    r"""Trajectories, time-major.

    Fields:
        states: x_i for i <= steps.
        actions: a_i for i < steps.
        means: mean of the policy at x_i.
        stds: its standard deviation.
        increments: \sigma(x_i, a_i) \sqrt{h} z_i, what the noise moved.
        rewards: r(x_i, a_i) per unit of time.
        failed_at: the first state of a trajectory that is not finite, -1 where there is none.
    """

    states: Float[Array, "points batch d"]
    actions: Float[Array, "steps batch m"]
    means: Float[Array, "steps batch m"]
    stds: Float[Array, "steps batch m"]
    increments: Float[Array, "steps batch d"]
    rewards: Float[Array, "steps batch"]
    failed_at: Int[Array, " batch"]

    @property
    def ok(self) -> Bool[Array, " batch"]:
        """Whether every state of a trajectory is finite."""
        return self.failed_at < 0


@at_the_door
def simulate_control(
    key: Array,
    environment: ControlledSDE,
    policy: PolicyFn,
    x_0: Float[Array, "batch d"],
    *,
    dt: Float[Array, ""] | float,
    steps: int,
) -> ControlledPath:
    """Return trajectories by Euler-Maruyama, an action drawn at every step, one scan for the batch.

    Args:
        key: PRNG key.
        environment: what is controlled.
        policy: mean and standard deviation of the action at each state.
        x_0: start states.
        dt: step h, in units of time.
        steps: number of steps.

    Raises:
        ValueError: steps is below 1, or x_0 does not have the environment's dimension.
    """
    check_count("simulate_control.steps", steps, most=2**24)
    if x_0.ndim != 2 or x_0.shape[1] != environment.state_dimension:
        rule = f"it must have shape (batch, {environment.state_dimension})"
        raise refuse("simulate_control.x_0", x_0, rule, "give a row for each start state")

    def step(x, i):
        action_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        mean, std = policy(x)
        action = mean + std * jax.random.normal(action_key, mean.shape, x.dtype)
        shape = (x.shape[0], environment.noise_dimension)
        noise = jnp.sqrt(jnp.asarray(dt, x.dtype)) * jax.random.normal(noise_key, shape, x.dtype)
        increment = jnp.sum(environment.diffusion(x, action) * noise[:, None, :], axis=2)
        x_next = x + environment.drift(x, action) * dt + increment
        reward = environment.reward(x, action)
        return x_next, (x_next, action, mean, std, increment, reward)

    _, (states, *rest) = jax.lax.scan(step, x_0, jnp.arange(steps))
    states = jnp.concatenate([x_0[None], states])
    return ControlledPath(states, *rest, failed_at=failure_of(states))
