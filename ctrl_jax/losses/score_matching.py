r"""Score-matching losses. One value per example.

Denoising score matching with weight lambda(t) = v(t):

    L = |std(t) s(t, x_t) + noise|^2 averaged over dimensions,  x_t = a x_0 + std noise,   (1)

which differs from the explicit loss by a constant. Source: arXiv 2402.07487, section 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._typing import expand
from ctrl_jax.losses.weighting import weighted


def denoising(
    score: Float[Array, "batch ..."],
    noise: Float[Array, "batch ..."],
    std: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return loss (1) per example.

    Args:
        score: s(t, x_t).
        noise: the standard normal that made x_t.
        std: sqrt(v(t)), shape (batch,).
        weights: optional weight of each example, for a weighting other than lambda = v.
    """
    residual = jnp.square(expand(std, score) * score + noise).reshape(score.shape[0], -1)
    return weighted(jnp.mean(residual, axis=1), weights)
