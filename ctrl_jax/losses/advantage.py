r"""Advantages along trajectories: estimates of q(t_i, x_i, a_i) dt from values and rewards.

With running rewards r_i (reward per step, here minus the penalty) and V_n the terminal reward,

    delta_i = V_{i+1} + r_i - V_i,                                                      (1)
    A_i = \sum_{k >= 0} trace^k delta_{i+k},                                            (2)
    G_i = V_n + \sum_{j >= i} r_j.                                                      (3)

trace = 0 is the difference quotient of continuous-time q, A_i = delta_i; trace = 1 telescopes to
G_i - V_i. Time is the leading axis. Source: arXiv 2305.18901, section 3; 1506.02438.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._numerics import discounted_sums


def returns_to_go(
    running: Float[Array, "steps batch"], terminal: Float[Array, " batch"]
) -> Float[Array, "steps batch"]:
    """Return (3): terminal plus the running rewards from each step on."""
    return terminal[None] + jnp.cumsum(running[::-1], axis=0)[::-1]


def generalized(
    values: Float[Array, "steps batch"],
    running: Float[Array, "steps batch"],
    terminal: Float[Array, " batch"],
    *,
    trace: float,
) -> Float[Array, "steps batch"]:
    """Return (2), the exponentially traced differences of the value.

    Args:
        values: V(t_i, x_i) for i < n.
        running: running reward of each step.
        terminal: terminal reward, which stands for V_n.
        trace: in [0, 1]: 0 trusts the value, 1 trusts the trajectory.
    """
    next_values = jnp.concatenate([values[1:], terminal[None]])
    return discounted_sums(next_values + running - values, trace)
