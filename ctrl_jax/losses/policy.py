r"""Policy losses: what to minimize so that a policy's return rises. One value per transition.

With `log_ratio` = log pi(a|x) - log pi_old(a|x), summed over the action's dimensions, and
`advantage` an estimate of q(x, a) dt, the gradient of each at pi = pi_old is an estimate of

    -\nabla \eta = -E[\nabla \log \pi(a|x) q(x, a)] dt.                                  (1)

`value_gradient` is the same gradient without the action's noise: q is linear in the action,
q(t, x, a) = g^2 (a - mu) . \nabla V, so that

    \nabla \eta = E \int g^2 (\partial_\theta \mu)^T \nabla V dt.                        (2)

The running penalty of a controlled diffusion acts on the mean directly and is a term of its own
(`solvers.girsanov.kl_rate`), never part of the advantage's noise.

Two penalized forms keep the new policy near the old one, KL = KL(pi' || pi) in closed form at each
state, the root taken per state before the mean:

    -ratio A + C sqrt(KL),                                                               (3)
    -ratio A + C KL.                                                                     (4)

sqrt(KL) is a norm of the step: where C exceeds sqrt(2) times the slope of the first term (in the
Fisher norm) the minimizer of (3) is pi itself, and the gradient at pi does not exist. So

    sqrt(KL + epsilon) - sqrt(epsilon)                                                   (5)

stands for it, smooth at KL = 0 and the root where KL >> epsilon. After each update the penalty C
follows the mean divergence D: above (1 + tolerance) target it grows by a factor, below
(1 - tolerance) target it shrinks.

For Gaussian steps KL(pi_old || pi) is exact, and so is a trust region by it: where it is beyond a
bound and the gradient would lead farther, which it does where log_ratio and A have one sign, there
is none,

    -ratio A  unless  KL > bound and log_ratio A > 0, then 0.                            (6)

The ratio tells of that divergence by one sample: of d dimensions moved by delta standard deviations
in all, its logarithm is delta z - delta^2 / 2 with z ~ N(0, 1).

Source: arXiv 2305.18901 (policy gradient, (3), (4), penalty); 1707.06347 (clipping); 2409.08400
(2); 2606.11025 (6).
"""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import (
    as_float,
    check_all_positive,
    check_finite,
    check_non_negative,
    check_positive,
    refuse,
)
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import sum_each
from ctrl_jax.losses.weighting import weighted


@at_the_door
def policy_gradient(
    log_prob: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return -log_prob * advantage, whose gradient estimates minus the gradient of the return.

    It is -grad log pi(a|x) A, the score-function estimate, with the action a drawn from pi.

    Args:
        log_prob: log-density log pi(a|x) of the action taken (a log-ratio to constants serves as
            well), shape (batch,).
        advantage: estimate A of the advantage, in units of the reward, shape (batch,).
        weights: optional weight of each example.

    Raises:
        ValueError: the shapes differ.

    Source: arXiv 2305.18901.
    """
    return weighted(-log_prob * advantage, weights)


@at_the_door
def clipped_surrogate(
    log_ratio: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    *,
    clip: float,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return PPO's clipped loss -min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A).

    Args:
        log_ratio: log pi - log pi_old of the action taken.
        advantage: estimate of the advantage under pi_old, in units of the reward.
        clip: half-width of the interval around 1 within which the ratio has a gradient; positive.
        weights: optional weight of each example.

    Raises:
        ValueError: clip is not positive.
    """
    check_positive("clip", clip)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return weighted(-jnp.minimum(ratio * advantage, clipped * advantage), weights)


@at_the_door
def masked_surrogate(
    log_ratio: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    kl: Float[Array, " batch"],
    *,
    bound: float,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return -ratio A, and 0 where the divergence is beyond a bound and would grow.

    ratio = e^log_ratio and A = advantage; it is 0 where kl > bound and log_ratio A > 0.

    Args:
        log_ratio: log pi - log pi_old of the action taken, shape (batch,).
        advantage: estimate of the advantage under pi_old, in units of the reward.
        kl: KL(pi_old || pi) at each state, in nats.
        bound: divergence up to which every step has a gradient, in nats; positive.
        weights: optional weight of each example.

    Raises:
        ValueError: the bound is not positive, or the shapes differ.

    Source: Ping et al. 2606.11025.
    """
    check_positive("bound", bound)
    left = leaves(log_ratio, advantage, kl, bound=bound)
    # The ratio of what has left may be infinite.
    ratio = jnp.where(left, 0.0, jnp.exp(jnp.where(left, 0.0, log_ratio)))
    return weighted(-ratio * advantage, weights)


@at_the_door
def leaves(
    log_ratio: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    kl: Float[Array, " batch"],
    *,
    bound: float,
) -> Bool[Array, " batch"]:
    """Return where the divergence is beyond a bound and the gradient leads farther.

    That is where kl > bound and log_ratio advantage > 0; there `masked_surrogate` is 0.

    Args:
        log_ratio: log pi - log pi_old of the action taken, shape (batch,).
        advantage: estimate of the advantage under pi_old.
        kl: KL(pi_old || pi) at each state, in nats.
        bound: of the divergence, in nats.

    Raises:
        ValueError: the shapes differ.

    Source: Ping et al. 2606.11025.
    """
    return (kl > bound) & (log_ratio * advantage > 0)


@at_the_door
def sqrt_kl_surrogate(
    log_ratio: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    kl: Float[Array, " batch"],
    *,
    penalty: Float[Array, ""] | float,
    epsilon: float = 1e-6,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return C (sqrt(KL + epsilon) - sqrt(epsilon)) - ratio A, the surrogate penalized by sqrt(KL).

    ratio = e^log_ratio; epsilon makes the root smooth at KL = 0.

    Args:
        log_ratio: log pi' - log pi of the action taken, shape (batch,).
        advantage: A, rate of advantage less gamma log pi, in units of the reward per time.
        kl: KL(pi' || pi) at each state, in nats.
        penalty: C, in units of the advantage per sqrt(nat).
        epsilon: rounds the kink off, in nats; positive, far below the square of the target.
        weights: optional weight of each example.

    Raises:
        ValueError: the penalty is negative or epsilon not positive, or the shapes differ.

    Source: arXiv 2305.18901.
    """
    check_non_negative("penalty", penalty)
    check_positive("epsilon", epsilon)
    distance = jnp.sqrt(kl + epsilon) - epsilon**0.5
    return weighted(penalty * distance - jnp.exp(log_ratio) * advantage, weights)


@at_the_door
def linear_kl_surrogate(
    log_ratio: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    kl: Float[Array, " batch"],
    *,
    penalty: Float[Array, ""] | float,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the surrogate penalized by the divergence, C KL - ratio A, with ratio = e^log_ratio.

    Args:
        log_ratio: log pi' - log pi of the action taken, shape (batch,).
        advantage: A, rate of advantage less gamma log pi, in units of the reward per time.
        kl: KL(pi' || pi) at each state, in nats.
        penalty: C, in units of the advantage per nat.
        weights: optional weight of each example.

    Raises:
        ValueError: the penalty is negative, or the shapes differ.

    Source: arXiv 2305.18901.
    """
    check_non_negative("penalty", penalty)
    return weighted(penalty * kl - jnp.exp(log_ratio) * advantage, weights)


@at_the_door
def adapt_penalty(
    penalty: Float[Array, ""] | float,
    divergence: Float[Array, ""] | float,
    target: float,
    *,
    tolerance: float = 0.1,
    factor: float = 1.5,
    least: float = 1e-4,
    greatest: float = 1e4,
) -> Float[Array, ""]:
    """Return the penalty C of the next update.

    Args:
        penalty: C of this update.
        divergence: mean divergence D that it led to.
        target: what D should be, in the same units.
        tolerance: half-width of the interval around the target in which C stays, as a share of it.
        factor: by which C grows or shrinks, above 1.
        least: lower limit of C.
        greatest: upper limit of C.

    Raises:
        ValueError: the target is not positive, the tolerance negative or the factor not above 1.
    """
    check_positive("target", target)
    check_non_negative("tolerance", tolerance)
    if not isinstance(factor, Tracer) and check_finite("factor", factor) <= 1:
        raise refuse("factor", factor, "it must be above 1", "give 1.5")
    grown = jnp.where(divergence > (1 + tolerance) * target, penalty * factor, penalty)
    moved = jnp.where(divergence < (1 - tolerance) * target, penalty / factor, grown)
    least, greatest = as_float(least), as_float(greatest)
    check_all_positive("adapt_penalty", least=least, greatest=greatest)
    return jnp.clip(moved, least, greatest)


@at_the_door
def value_gradient(
    mean: Float[Array, "batch ..."],
    gradient: Float[Array, "batch ..."],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return -<gradient, mean>, whose gradient in the policy is one step's of minus the return.

    The gradient of the return is E int g^2 (d mu / d theta)^T grad V dt, mu being the mean of the
    policy's action; of it a step has the part (d mean / d theta)^T grad V. The noise of the action
    is not in it.

    Args:
        mean: conditional mean of the next state under the policy, shape (batch, ...).
        gradient: grad V at the next state, of the same shape, held fixed.
        weights: optional weight of each example.

    Returns:
        One value per example, shape (batch,).

    Raises:
        ValueError: the shapes differ.

    Source: arXiv 2409.08400.
    """
    return weighted(-sum_each(mean * gradient), weights)
