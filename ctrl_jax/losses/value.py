r"""Value losses for policy evaluation in continuous time. One value per transition.

The value of a policy makes V(t, X_t) + \int_0^t r ds a martingale. Its two classical consequences:

    martingale loss:      E \int (G_t - V(t, X_t))^2 dt,  G_t = R + \int_t^T r ds,      (1)
    temporal difference:  E (V(t_{i+1}, X_{i+1}) + r_i dt - V(t_i, X_i))^2,             (2)

the second with the next value held fixed by the caller. (1) is unbiased in V and needs whole
trajectories. Source: Jia and Zhou 2022 (JMLR 23, 154), sections 3-4; arXiv 2305.18901.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._door import at_the_door
from ctrl_jax.losses.weighting import weighted


@at_the_door
def martingale(
    value: Float[Array, " batch"],
    return_to_go: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return (return_to_go - value)^2 / 2, loss (1) at one time.

    Args:
        value: V(t_i, x_i), in units of the reward.
        return_to_go: terminal reward plus running rewards from t_i on.
        weights: optional weight of each example.
    """
    return weighted(jnp.square(return_to_go - value) / 2, weights)


@at_the_door
def temporal_difference(
    value: Float[Array, " batch"],
    next_value: Float[Array, " batch"],
    running_reward: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return (next_value + running_reward - value)^2 / 2, loss (2).

    Args:
        value: V(t_i, x_i).
        next_value: V(t_{i+1}, x_{i+1}), held fixed.
        running_reward: reward of the step, r_i dt.
        weights: optional weight of each example.
    """
    return weighted(jnp.square(next_value + running_reward - value) / 2, weights)
