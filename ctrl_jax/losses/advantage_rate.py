r"""The rate of advantage q in continuous time, estimated from one step or from a trajectory.

With value V, discount beta and the step from x under action a to x',

    q(x, a) = r + b . \nabla V + tr(\sigma \sigma^T \nabla^2 V)/2 - \beta V,                (1)
    q_difference = r + (e^{-\beta h} V(x') - V(x)) / h,                                    (2)
    q_pathwise = q_difference - \nabla V(x) . \sigma dW / h,                               (3)
    q_gae = \sum_{k >= 0} e^{-(\beta + 1/l) k h} (h q_difference)_{i+k} / h.                (4)

All have the mean q + O(h). The noise of (2) is \nabla V . \sigma dW/h, so its variance is
|\sigma^T \nabla V|^2/h; (3) takes this martingale increment out and is left with
tr(\sigma^T \nabla^2 V \sigma)(dW^2 - h)/(2h), whose variance does not grow. (4) needs the value
less the longer its memory l (in units of time), and its variance is l |\sigma^T \nabla V|^2/(2 h^2)
without the removal. Sums over all steps of a trajectory average the noise of (2) out again; draws
of single transitions do not.

Along trajectories time is the leading axis and rewards are rates. Source: arXiv 2305.18901,
section 3; Jia and Zhou 2023 (JMLR 24, 161).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_finite, check_positive, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import discounted_sums

ValueFn = Callable[[Array], Array]
"""``value(x)`` returns one value per state, (batch,) for x (batch, d)."""


@at_the_door
def difference_quotient(
    value: Float[Array, "*batch"],
    next_value: Float[Array, "*batch"],
    reward: Float[Array, "*batch"],
    *,
    dt: Float[Array, ""] | float,
    discount: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    """Return r + (e^{-beta h} V(x') - V(x)) / h, the rate of advantage estimated from one step.

    Its mean is q(x, a) + O(h), with the rate of advantage q, and its variance
    |sigma^T grad V|^2 / h, with the diffusion sigma, grows as the step h shrinks.

    Args:
        value: V(x).
        next_value: V(x'), at the end of the step.
        reward: r(x, a), per unit of time.
        dt: length h of the step.
        discount: beta, in 1 / time.

    Returns:
        One value per transition, in units of the reward per time.

    Raises:
        ValueError: dt is not positive, or the shapes differ.

    Source: arXiv 2305.18901, section 3; Jia and Zhou 2023 (JMLR 24, 161).
    """
    check_positive("dt", dt)
    return reward + (jnp.exp(-discount * dt) * next_value - value) / dt


@at_the_door
def pathwise(
    value: Float[Array, "*batch"],
    next_value: Float[Array, "*batch"],
    reward: Float[Array, "*batch"],
    martingale: Float[Array, "*batch"],
    *,
    dt: Float[Array, ""] | float,
    discount: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    """Return the rate of advantage estimated from one step, without its martingale noise.

    r + (e^{-beta h} V(x') - V(x)) / h - grad V(x) . sigma dW / h, with sigma dW what the noise
    moved in the step: its mean is q(x, a) + O(h), with the rate of advantage q, and its variance
    does not grow as the step h shrinks.

    Args:
        value: V(x).
        next_value: V(x'), at the end of the step.
        reward: r(x, a), per unit of time.
        martingale: grad V(x) . sigma dW, by `martingale_increment`.
        dt: length h of the step.
        discount: beta, in 1 / time.

    Returns:
        One value per transition, in units of the reward per time.

    Raises:
        ValueError: dt is not positive, or the shapes differ.

    Source: arXiv 2305.18901, section 3; Jia and Zhou 2023 (JMLR 24, 161).
    """
    plain = difference_quotient(value, next_value, reward, dt=dt, discount=discount)
    return plain - martingale / dt


@at_the_door
def martingale_increment(
    value_fn: ValueFn, x: Float[Array, "batch d"], increment: Float[Array, "batch d"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    r"""Return V(x) and \nabla V(x) . \sigma dW, by one forward derivative.

    Args:
        value_fn: V.
        x: states.
        increment: \sigma(x, a) dW, what the noise moved.
    """
    return jax.jvp(value_fn, (x,), (increment.astype(x.dtype),))


@at_the_door
def generalized(
    rates: Float[Array, "steps batch"],
    *,
    dt: Float[Array, ""] | float,
    discount: Float[Array, ""] | float,
    memory: Float[Array, ""] | float,
) -> Float[Array, "steps batch"]:
    """Return sum_{k >= 0} e^{-(beta + 1/l) k h} q_{i+k} at every step i, with the rates q_i.

    The longer the memory l, the less it needs the value and the larger is its variance.

    Args:
        rates: q_i of one step each, by `difference_quotient` or `pathwise`, shape (steps, batch).
            Those of later steps must include what the policy earns by its entropy, or their mean is
            not zero.
        dt: length h of the steps.
        discount: beta, in 1 / time.
        memory: l, in units of time; 0 returns `rates`.

    Returns:
        Shape (steps, batch), in units of the reward per time.

    Raises:
        ValueError: dt is not positive, the discount is not finite, or there is no step.

    Source: arXiv 2305.18901, section 3; Jia and Zhou 2023 (JMLR 24, 161).
    """
    check_positive("dt", dt)
    check_finite("discount", discount)
    if rates.shape[0] == 0:
        raise refuse("rates", rates, "there must be a step", "give one or more")
    memory = jnp.asarray(memory, rates.dtype)
    inverse = jnp.where(memory > 0, 1 / jnp.maximum(memory, jnp.finfo(rates.dtype).tiny), jnp.inf)
    decay = jnp.exp(-(discount + inverse) * dt)

    return discounted_sums(rates, decay)


@at_the_door
def generator(
    value_fn: ValueFn,
    x: Float[Array, "batch d"],
    drift: Float[Array, "batch d"],
    diffusion: Float[Array, "batch d k"],
    reward: Float[Array, " batch"],
    *,
    discount: Float[Array, ""] | float,
) -> Float[Array, " batch"]:
    """Return q = r + b . grad V + tr(sigma sigma^T hess V)/2 - beta V, the exact rate of advantage.

    It is made of the known coefficients at (x, a): no noise and no step.

    Args:
        value_fn: V, twice differentiable; ``value_fn(x)`` has shape (batch,).
        x: states, shape (batch, d).
        drift: b(x, a), of the same shape.
        diffusion: sigma(x, a), shape (batch, d, k).
        reward: r(x, a), per unit of time, shape (batch,).
        discount: beta, in 1 / time.

    Returns:
        Shape (batch,), in units of the reward per time.

    Raises:
        ValueError: the shapes do not fit each other.

    Source: arXiv 2305.18901, section 3; Jia and Zhou 2023 (JMLR 24, 161).
    """
    drift, diffusion = drift.astype(x.dtype), diffusion.astype(x.dtype)
    value, growth = jax.jvp(value_fn, (x,), (drift,))

    def second_derivative(column):
        return jax.jvp(lambda y: jax.jvp(value_fn, (y,), (column,))[1], (x,), (column,))[1]

    curvature = jnp.sum(jax.vmap(second_derivative)(jnp.moveaxis(diffusion, 2, 0)), axis=0)
    return reward + growth + curvature / 2 - discount * value
