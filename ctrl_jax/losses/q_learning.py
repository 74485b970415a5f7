r"""Little q-learning: value and rate of advantage learned from one martingale. Per transition.

Under any behavior policy the pair (J, q) is the optimal value and the optimal rate q* if and only
if \int exp(q(t, x, a)/\theta) da = 1, J has the terminal value, and

    J(t, X_t) + \int_0^t [r(s, X_s, a_s) - q(s, X_s, a_s)] ds   is a martingale.           (1)

A Gaussian policy pi is such a rate, q = \theta log pi (`gaussian_rate`): it is normalized already.
On a grid the increments of (1) are the residuals

    \delta_i = J(t_{i+1}, x_{i+1}) - J(t_i, x_i) + (r_i - q_i) dt_i,                       (2)

whose conditional mean is O(dt^2) at the solution. Two ways to make them vanish:

    moments:        E \sum_i \xi_i \delta_i = 0 for test functions \xi_i known at t_i,     (3)
    squared loss:   E \sum_i \delta_i^2 / 2, J(t_{i+1}, x_{i+1}) held fixed.               (4)

With \xi = the gradients of J_i and of log pi_i, (3) is solved by the updates of q-learning, and
these are also the descent of (4). Were the next value differentiated too, (4) would be the mean
square of a quadratic variation: its minimum is a flat J, whatever the reward.

Source: arXiv 2409.04832, sections 3-4; Jia and Zhou 2023 (JMLR 24, 161).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, check_finite, check_positive
from ctrl_jax._door import at_the_door
from ctrl_jax.losses.weighting import weighted


@at_the_door
def gaussian_rate(
    square: Float[Array, "*batch"],
    rate: Float[Array, "*#batch"] | float,
    dimension: int,
    *,
    temperature: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    r"""Return q = \theta log pi of pi = N(mean, \theta/(2 rate) I).

    That is -rate |a - mean|^2 - (\theta d/2) log(\pi \theta/rate), of integral exp(q/\theta) = 1.

    Args:
        square: |a - mean|^2, summed over dimensions.
        rate: g^2, per unit of time.
        dimension: d of the action.
        temperature: theta, in units of the reward per nat and time.
    """
    check_count("dimension", dimension)
    check_positive("temperature", temperature)
    if not getattr(rate, "ndim", 0):
        check_positive("rate", rate)
    constant = temperature * dimension / 2 * jnp.log(jnp.pi * temperature / rate)
    return -rate * square - constant


@at_the_door
def martingale_residual(
    value: Float[Array, "*batch"],
    next_value: Float[Array, "*batch"],
    reward: Float[Array, "*batch"],
    q: Float[Array, "*batch"],
    *,
    dt: Float[Array, "*#batch"] | float,
    weights: Float[Array, "*#batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the residual delta_i = J_{i+1} - J_i + (r_i - q_i) dt_i of each transition.

    It is an increment of J(t, X_t) + int_0^t (r - q) ds, a martingale where J and q are the optimal
    value and rate of advantage: there its conditional mean is O(dt^2).

    Args:
        value: J_i = J(t_i, x_i).
        next_value: J_{i+1}; the terminal reward after the last step.
        reward: r_i, per unit of time.
        q: rate of advantage of the action taken, per unit of time.
        dt: length of the step.
        weights: optional weight of each transition.

    Raises:
        ValueError: dt is not finite, or a shape does not fit.

    Source: arXiv 2409.04832, sections 3-4; Jia and Zhou 2023 (JMLR 24, 161).
    """
    if not getattr(dt, "ndim", 0):
        check_finite("dt", dt)
    return weighted(next_value - value + (reward - q) * dt, weights)


@at_the_door
def moment(
    residual: Float[Array, "*batch"],
    test: Float[Array, "*batch"],
    *,
    weights: Float[Array, "*#batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return -delta_i f_i, the residual delta_i held fixed: descent is the update of q-learning.

    Its gradient in the parameters of f is -xi_i delta_i with xi = grad f, and descent solves the
    moment condition E sum_i xi_i delta_i = 0: take f = J_i for the value and f = log pi_i for the
    policy.

    Args:
        residual: delta_i by `martingale_residual`, or a sum of it over the steps that follow.
        test: f_i, a function of the parameters.
        weights: optional weight of each transition.

    Raises:
        ValueError: a shape does not fit.

    Source: arXiv 2409.04832, sections 3-4; Jia and Zhou 2023 (JMLR 24, 161).
    """
    return weighted(-jax.lax.stop_gradient(residual) * test, weights)


@at_the_door
def squared(
    value: Float[Array, "*batch"],
    next_value: Float[Array, "*batch"],
    reward: Float[Array, "*batch"],
    q: Float[Array, "*batch"],
    *,
    dt: Float[Array, "*#batch"] | float,
    weights: Float[Array, "*#batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return half the square of J_{i+1} - J_i + (r_i - q_i) dt_i, the next value held fixed.

    Were the next value differentiated too, the minimum would be a flat J, whatever the reward.

    Args:
        value: J_i = J(t_i, x_i).
        next_value: J_{i+1}; the terminal reward after the last step.
        reward: r_i, per unit of time.
        q: rate of advantage of the action taken, per unit of time.
        dt: length of the step.
        weights: optional weight of each transition.

    Raises:
        ValueError: dt is not finite, or a shape does not fit.

    Source: arXiv 2409.04832, sections 3-4; Jia and Zhou 2023 (JMLR 24, 161).
    """
    fixed = jax.lax.stop_gradient(next_value)
    residual = martingale_residual(value, fixed, reward, q, dt=dt)
    return weighted(jnp.square(residual) / 2, weights)
