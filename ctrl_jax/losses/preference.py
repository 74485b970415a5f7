"""Losses of preference data. One value per pair."""

import jax
from jaxtyping import Array, Float

from ctrl_jax.losses.weighting import weighted


def bradley_terry(
    reward_chosen: Float[Array, " batch"],
    reward_rejected: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return -log sigmoid(reward_chosen - reward_rejected), the Bradley-Terry likelihood.

    Args:
        reward_chosen: reward of the preferred example of each pair.
        reward_rejected: reward of the other one.
        weights: optional weight of each pair.
    """
    return weighted(-jax.nn.log_sigmoid(reward_chosen - reward_rejected), weights)
