r"""Gaussian policies with independent coordinates: density, divergence and entropy, per state.

log \pi(a|x) = -\sum_j [(a_j - m_j)^2/(2 s_j^2) + log s_j + log(2 \pi)/2],             (1)
KL(\pi' || \pi) = \sum_j [(s'_j^2 + (m'_j - m_j)^2)/(2 s_j^2) - log(s'_j/s_j) - 1/2],  (2)
H(\pi) = \sum_j [log s_j + log(2 \pi e)/2].                                            (3)
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._door import at_the_door


@at_the_door
def log_prob(
    mean: Float[Array, "*batch m"], std: Float[Array, "*batch m"], action: Float[Array, "*batch m"]
) -> Float[Array, "*batch"]:
    """Return the log-density of actions, summed over their m independent coordinates.

    Args:
        mean: of the action, (..., m).
        std: its standard deviation, (..., m), positive.
        action: where, (..., m).
    """
    square = ((action - mean) / std) ** 2
    return -jnp.sum(square / 2 + jnp.log(std) + math.log(2 * math.pi) / 2, axis=-1)


@at_the_door
def kl(
    mean: Float[Array, "*batch m"],
    std: Float[Array, "*batch m"],
    mean_old: Float[Array, "*batch m"],
    std_old: Float[Array, "*batch m"],
) -> Float[Array, "*batch"]:
    """Return KL(N(mean, std^2) || N(mean_old, std_old^2)) in nats.

    Args:
        mean: of the action, (..., m).
        std: its standard deviation, (..., m), positive.
        mean_old: of the other law, (..., m).
        std_old: of the other law, (..., m), positive.
    """
    ratio = std / std_old
    shift = ((mean - mean_old) / std_old) ** 2
    return jnp.sum((ratio**2 - 1 + shift) / 2 - jnp.log(ratio), axis=-1)


@at_the_door
def entropy(std: Float[Array, "*batch m"]) -> Float[Array, "*batch"]:
    """Return the entropy sum_j log std_j + m log(2 pi e) / 2, in nats.

    Args:
        std: standard deviation of the action, (..., m), positive.
    """
    return jnp.sum(jnp.log(std) + math.log(2 * math.pi * math.e) / 2, axis=-1)
