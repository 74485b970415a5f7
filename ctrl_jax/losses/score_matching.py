r"""Score-matching losses, each averaged over the d dimensions. One value per example.

With s the model at (t, x_t), p_t the law of x_t = a x_0 + std noise, and a weight lambda(t),

    explicit:   lambda |s - \nabla log p_t|^2 / d,                                       (1)
    implicit:   lambda (|s|^2 + 2 div s) / d,                                            (2)
    sliced:     lambda (|s|^2 + 2 v^T J v) / d,   J = ds/dx,  E v v^T = I,               (3)
    denoising:  lambda |s + noise / std|^2 / d,                                          (4)

where noise / std is minus the score of the kernel. In expectation they differ by constants,

    (1) = (2) + E lambda |\nabla log p_t|^2 / d                                          (5)
        = (4) - E lambda (|noise / std|^2 - |\nabla log p_t|^2) / d,

and so have one gradient in the model; their variances and costs differ. (1) needs the score of the
data and serves as a reference; (2) needs d products with the Jacobian, (3) one, (4) none. Weights
lambda(t) are in `losses.time_weighting`, divergences in `solvers.divergence`.

Source: Hyvarinen 2005 (2); Vincent 2011 (4); Song et al. 2019 (3); arXiv 2402.07487, section 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._numerics import expand
from ctrl_jax.losses.weighting import weighted


def explicit(
    score: Float[Array, "batch ..."],
    target: Float[Array, "batch ..."],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    r"""Return loss (1) per example.

    Args:
        score: s(t, x_t).
        target: the true score \nabla log p_t(x_t).
        weights: lambda(t) of each example; 1 by default.
    """
    return weighted(_mean_square(score - target), weights)


def implicit(
    score: Float[Array, "batch ..."],
    divergence: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return loss (2) per example.

    Args:
        score: s(t, x_t).
        divergence: div s(t, x_t), for instance by `divergence.exact`.
        weights: lambda(t) of each example; 1 by default.
    """
    return weighted(_mean_square(score) + 2 * divergence / score[0].size, weights)


def sliced(
    score: Float[Array, "batch ..."],
    curvature: Float[Array, " batch"],
    *,
    direction: Float[Array, "batch ..."] | None = None,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return loss (3) per example.

    Args:
        score: s(t, x_t).
        curvature: v^T J v along a random direction v, by `divergence.projected`. Rademacher
            directions give it the least variance.
        direction: v itself, to put the estimate (v^T s)^2 in the place of |s|^2, as the loss was
            first stated; its variance is larger.
        weights: lambda(t) of each example; 1 by default.
    """
    square = _mean_square(score)
    if direction is not None:
        product = (score * direction).reshape(score.shape[0], -1)
        square = jnp.square(jnp.sum(product, axis=1)) / score[0].size
    return weighted(square + 2 * curvature / score[0].size, weights)


def denoising(
    score: Float[Array, "batch ..."],
    noise: Float[Array, "batch ..."],
    std: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return loss (4) per example with lambda = std^2 times `weights`.

    Args:
        score: s(t, x_t).
        noise: the standard normal that made x_t.
        std: sqrt(v(t)), shape (batch,).
        weights: lambda(t) / v(t) of each example (`time_weighting.relative`); 1 by default.
    """
    return weighted(_mean_square(expand(std, score) * score + noise), weights)


def _mean_square(values: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    return jnp.mean(jnp.square(values).reshape(values.shape[0], -1), axis=1)
