r"""Score-matching losses, each averaged over the d dimensions. One value per example.

With s the model at (t, x_t), p_t the law of x_t = a x_0 + std noise, and a weight lambda(t),

    explicit:   lambda |s - \nabla log p_t|^2 / d,                                       (1)
    implicit:   lambda (|s|^2 + 2 div s) / d,                                            (2)
    sliced:     lambda (|s|^2 + 2 v^T J v) / d,   J = ds/dx,  E v v^T = I,               (3)
    denoising:  lambda |s + noise / std|^2 / d,                                          (4)
    flow:       lambda |u - (noise - x_0) / T|^2 / d,                                    (6)

where noise / std is minus the score of the kernel, and u = b x - sigma^2 s / 2 in (6), the flow of
the rectified process: there (6) is (4) with lambda sigma^4 / 4. In expectation they differ by
constants,

    (1) = (2) + E lambda |\nabla log p_t|^2 / d                                          (5)
        = (4) - E lambda (|noise / std|^2 - |\nabla log p_t|^2) / d,

and so have one gradient in the model; their variances and costs differ. (1) needs the score of the
data and serves as a reference; (2) needs d products with the Jacobian, (3) one, (4) none. Weights
lambda(t) are in `losses.time_weighting`, divergences in `solvers.jacobian_trace`.

Source: Hyvarinen 2005 (2); Vincent 2011 (4); Song et al. 2019 (3); Lipman et al. 2023 (6);
arXiv 2402.07487, section 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_positive
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand, mean_each, sum_each
from ctrl_jax.losses.weighting import weighted


@at_the_door
def explicit(
    score: Float[Array, "batch *dims"],
    target: Float[Array, "batch *dims"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the explicit score-matching loss lambda |s - grad log p_t|^2 / d per example.

    Args:
        score: s(t, x_t), shape (batch, ...), of d coordinates per example.
        target: the true score grad log p_t(x_t), of the same shape.
        weights: lambda(t) of each example; 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: a shape does not fit.

    Source: arXiv 2402.07487, section 4.
    """
    return weighted(mean_each(jnp.square(score - target)), weights)


@at_the_door
def implicit(
    score: Float[Array, "batch *dims"],
    divergence: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the implicit score-matching loss lambda (|s|^2 + 2 div s) / d per example.

    In expectation it is lambda |s - grad log p_t|^2 / d up to a constant, without the true score.

    Args:
        score: s(t, x_t), shape (batch, ...), of d coordinates per example.
        divergence: div s(t, x_t), for instance by `solvers.jacobian_trace.exact`, shape (batch,).
        weights: lambda(t) of each example; 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: a shape does not fit.

    Source: Hyvarinen 2005.
    """
    return weighted(mean_each(jnp.square(score)) + 2 * divergence / score[0].size, weights)


@at_the_door
def sliced(
    score: Float[Array, "batch *dims"],
    curvature: Float[Array, " batch"],
    *,
    direction: Float[Array, "batch *dims"] | None = None,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the sliced score-matching loss lambda (|s|^2 + 2 v^T J v) / d per example, J = ds/dx.

    Over directions v with E v v^T = I its mean is lambda (|s|^2 + 2 div s) / d, the implicit loss.

    Args:
        score: s(t, x_t), shape (batch, ...), of d coordinates per example.
        curvature: v^T J v along a random direction v, by `solvers.jacobian_trace.projected`, shape
            (batch,). Rademacher directions give it the least variance.
        direction: v itself, to put the estimate (v^T s)^2 in the place of |s|^2, as the loss was
            first stated; its variance is larger.
        weights: lambda(t) of each example; 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: a shape does not fit.

    Source: Song et al. 2019.
    """
    square = mean_each(jnp.square(score))
    if direction is not None:
        square = jnp.square(sum_each(score * direction)) / score[0].size
    return weighted(square + 2 * curvature / score[0].size, weights)


@at_the_door
def denoising(
    score: Float[Array, "batch *dims"],
    noise: Float[Array, "batch *dims"],
    std: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the denoising score-matching loss weights |std s + noise|^2 / d per example.

    That is lambda |s + noise / std|^2 / d with lambda = std^2 weights, where -noise / std is the
    score of the kernel from x_0 to x_t = a x_0 + std noise. In expectation it is
    lambda |s - grad log p_t|^2 / d up to a constant.

    Args:
        score: s(t, x_t), shape (batch, ...), of d coordinates per example.
        noise: the standard normal that made x_t, of the same shape.
        std: sqrt(v(t)), shape (batch,).
        weights: lambda(t) / v(t) of each example (`time_weighting.relative`); 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: a shape does not fit.

    Source: Vincent 2011.
    """
    return weighted(mean_each(jnp.square(expand(std, score) * score + noise)), weights)


@at_the_door
def flow(
    prediction: Float[Array, "batch *dims"],
    x_0: Float[Array, "batch *dims"],
    noise: Float[Array, "batch *dims"],
    *,
    horizon: float = 1.0,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the flow-matching loss |u - (noise - x_0) / T|^2 / d per example.

    Its minimizer is E[noise - x_0 | x_t] / T, the flow dx/dt of `RectifiedFlow`.

    Args:
        prediction: u(t, x_t) of the network, shape (batch, ...).
        x_0: the data, of the same shape.
        noise: the standard normal that made x_t = (1 - t/T) x_0 + (t/T) noise.
        horizon: T of the process.
        weights: lambda(t) of each example; 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: the horizon is not positive, or the shapes differ.

    Source: Lipman et al. 2023 (arXiv 2210.02747), eq. 23; Liu, Gong and Liu 2023, eq. 1.
    """
    check_positive("horizon", horizon)
    return weighted(mean_each(jnp.square(prediction - (noise - x_0) / horizon)), weights)
