"""Per-example weights, the same for every loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse


def weighted(
    loss: Float[Array, "*batch"], weights: Float[Array, "*#batch"] | None
) -> Float[Array, "*batch"]:
    """Return `loss`, times `weights` where given.

    Raises:
        ValueError: the weights are not one number, or one for each example.
    """
    if weights is None:
        return loss
    if jnp.broadcast_shapes(jnp.shape(weights), loss.shape) != loss.shape:
        rule = f"it must be one weight for each example, of shape {loss.shape}"
        raise refuse("weights.shape", jnp.shape(weights), rule, "flatten it")
    return weights * loss
