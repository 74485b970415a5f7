"""Per-example weights, the same for every loss."""

from jaxtyping import Array, Float


def weighted(
    loss: Float[Array, "*batch"], weights: Float[Array, "*batch"] | None
) -> Float[Array, "*batch"]:
    """Return `loss`, times `weights` where given."""
    return loss if weights is None else weights * loss
