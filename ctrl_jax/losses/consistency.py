r"""Consistency losses: one value per example, for a model f(t, x) that ends trajectories.

A model meets f(t, x_t) = f(s, x_s) along the probability-flow ODE if, for neighbors s < t,

    E w d(f(t, x_t), f^-(s, x_s)) -> min,                                                (1)

with f^- a copy that is held fixed and d the squared difference |p - q|^2, a mean over coordinates,
or, robust against outliers,

    d(p, q) = sqrt(|p - q|^2 + c^2) - c.                                                 (2)

The two losses differ in how the neighbor x_s is found, with y = x / a, tau = std / a:

    distillation:  a step of the ODE dy = noise dtau with a teacher's noise = -std s(t, x);  (3)
    training:      x_s = a_s x_0 + std_s noise with the x_0 and noise that made x_t.     (4)

(4) is the step (3) with the score of the kernel, whose mean given x_t is the score of the data: the
gradients of (3) and (4) are O(tau_t - tau_s), and their difference is of second order in it.

Source: Song et al. 2023 (arXiv 2303.01469), theorems 1-2; Song and Dhariwal 2024 (2310.14189) (2).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_positive, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand, mean_each
from ctrl_jax._typing import ScoreFn
from ctrl_jax.losses.weighting import weighted
from ctrl_jax.processes import LinearProcess
from ctrl_jax.processes.heun_step import heun_step


@at_the_door
def distillation(
    prediction: Float[Array, "batch *dims"],
    target: Float[Array, "batch *dims"],
    *,
    huber: float | None = None,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the loss w d(f(t, x_t), f^-(s, x_s)) of a model that learns from a teacher.

    d is the mean square m of the difference over coordinates or, robust against outliers,
    sqrt(m + c^2) - c with c = huber.

    Args:
        prediction: f(t, x_t), shape (batch, ...).
        target: f^-(s, x_s), x_s by `teacher_step`, of the same shape, held fixed by the caller.
        huber: c, in units of the data; by default d is m.
        weights: w of each example; 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: huber is not positive, or a shape does not fit.

    Source: Song et al. 2023 (arXiv 2303.01469), theorem 1; arXiv 2310.14189 (huber).
    """
    return _distance(prediction, target, huber, weights)


@at_the_door
def training(
    prediction: Float[Array, "batch *dims"],
    target: Float[Array, "batch *dims"],
    *,
    huber: float | None = 1e-3,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the loss w d(f(t, x_t), f^-(s, x_s)) of a model that learns from data alone.

    d is the mean square m of the difference over coordinates or, robust against outliers,
    sqrt(m + c^2) - c with c = huber.

    Args:
        prediction: f(t, x_t), x_t = a_t x_0 + std_t noise, shape (batch, ...).
        target: f^-(s, x_s), x_s = a_s x_0 + std_s noise of the same data and noise, s < t, of the
            same shape, held fixed by the caller.
        huber: c, in units of the data; None for m.
        weights: w of each example; 1 by default.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: huber is not positive, or a shape does not fit.

    Source: Song et al. 2023 (arXiv 2303.01469), theorem 2; arXiv 2310.14189 (huber).
    """
    return _distance(prediction, target, huber, weights)


@at_the_door
def teacher_step(
    process: LinearProcess,
    score_fn: ScoreFn,
    x_t: Float[Array, "batch *dims"],
    t: Float[Array, "*t"],
    s: Float[Array, "*t"],
    *,
    order: int = 2,
) -> Float[Array, "batch *dims"]:
    """Return x_s, one step of the teacher's probability-flow ODE from x_t.

    In y = x / a and tau = std / a the ODE is dy = noise dtau, with the noise = -std score of the
    teacher; Euler's step is x_s = a_s (x_t / a_t + (tau_s - tau_t) noise).

    Args:
        process: the forward process, of scale a and standard deviation std.
        score_fn: the teacher's score, ``score_fn(t, x)``.
        x_t: states, shape (batch, ...).
        t: their times, shape () or (batch,).
        s: times of the result, below t.
        order: 1 for Euler's step in tau (DDIM), 2 for Heun's, with two evaluations.

    Raises:
        ValueError: the order is neither 1 nor 2, or a shape does not fit.

    Source: Song et al. 2023 (arXiv 2303.01469), section 4, for every process.
    """
    if order not in (1, 2):
        raise refuse("teacher_step.order", order, "it must be 1 or 2", "give 1 (Euler) or 2 (Heun)")
    if order == 2:
        return heun_step(process, score_fn, x_t, t, s)
    (scale_t, std_t), (scale_s, std_s) = (
        [expand(c, x_t) for c in process.marginal(time)] for time in (t, s)
    )
    change = std_s / scale_s - std_t / scale_t
    return scale_s * (x_t / scale_t - change * std_t * score_fn(t, x_t))


def _distance(prediction, target, huber, weights):
    square = mean_each(jnp.square(prediction - target))
    if huber is None:
        return weighted(square, weights)
    check_positive("huber", huber)
    return weighted(jnp.sqrt(square + huber**2) - huber, weights)
