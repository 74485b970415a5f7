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
    """Return the martingale loss at one time, (G_i - V(t_i, x_i))^2 / 2.

    The value of a policy makes V(t, X_t) + int_0^t r ds a martingale. So it is the mean of the
    return to go given the state, at which the loss is least; G_i needs whole trajectories.

    Args:
        value: V(t_i, x_i), in units of the reward, shape (batch,).
        return_to_go: G_i, terminal reward plus running rewards from t_i on, shape (batch,).
        weights: optional weight of each example.

    Raises:
        ValueError: the shapes differ.

    Source: Jia and Zhou 2022 (JMLR 23, 154), sections 3-4; arXiv 2305.18901.
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
    """Return the squared temporal difference (V(t_{i+1}, x_{i+1}) + r_i dt - V(t_i, x_i))^2 / 2.

    Args:
        value: V(t_i, x_i), in units of the reward, shape (batch,).
        next_value: V(t_{i+1}, x_{i+1}), held fixed by the caller.
        running_reward: reward of the step, r_i dt.
        weights: optional weight of each example.

    Raises:
        ValueError: the shapes differ.

    Source: Jia and Zhou 2022 (JMLR 23, 154), sections 3-4; arXiv 2305.18901.
    """
    return weighted(jnp.square(next_value + running_reward - value) / 2, weights)
