"""Distances between samples."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def wasserstein_1d(
    x: Float[Array, " n"], y: Float[Array, " n"], *, order: float = 2.0
) -> Float[Array, ""]:
    """Return the exact Wasserstein distance of two samples of equal size on the line, by sorting.

    Args:
        x: one sample.
        y: the other sample, of the same size.
        order: p of W_p, at least 1.

    Raises:
        ValueError: the sizes differ.
    """
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"wasserstein_1d: samples must be vectors of one size, got {x.shape}, {y.shape}."
        )
    gaps = jnp.abs(jnp.sort(x) - jnp.sort(y)) ** order
    return jnp.mean(gaps) ** (1 / order)


def mean_pairwise(x: Float[Array, "n ..."]) -> Float[Array, ""]:
    """Return the mean Euclidean distance between two different points of a sample: its diversity.

    Args:
        x: points, shape (n, ...), n at least 2.

    Raises:
        ValueError: fewer than two points.
    """
    if x.shape[0] < 2:
        raise ValueError(f"mean_pairwise: at least two points are needed, got {x.shape[0]}.")
    flat = x.reshape(x.shape[0], -1)
    flat = flat - jnp.mean(flat, axis=0, keepdims=True)  # distances do not move, digits are kept
    squares = jnp.sum(flat**2, axis=1)
    gram = flat @ flat.T
    distances = jnp.sqrt(jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0))
    # The diagonal is zero up to rounding, which the square root would blow up.
    off_diagonal = distances * (1 - jnp.eye(x.shape[0], dtype=distances.dtype))
    return jnp.sum(off_diagonal) / (x.shape[0] * (x.shape[0] - 1))
