r"""Policy losses: what to minimise so that a policy's return rises. One value per transition.

With `log_ratio` = log pi(a|x) - log pi_old(a|x), summed over the action's dimensions, and
`advantage` an estimate of q(x, a) dt, the gradient of each at pi = pi_old is an estimate of

    -\nabla \eta = -E[\nabla \log \pi(a|x) q(x, a)] dt.                                  (1)

`value_gradient` is the same gradient without the action's noise: q is linear in the action,
q(t, x, a) = g^2 (a - mu) . \nabla V, so that

    \nabla \eta = E \int g^2 (\partial_\theta \mu)^T \nabla V dt.                        (2)

The running penalty of a controlled diffusion acts on the mean directly and is a term of its own
(`solvers.girsanov.kl_rate`), never part of the advantage's noise.

Source: arXiv 2305.18901 (policy gradient); 1707.06347 (clipping); 2409.08400 (2).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax.losses.weighting import weighted


def policy_gradient(
    log_prob: Float[Array, " batch"],
    advantage: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return -log_prob * advantage, whose gradient is the score-function estimate (1).

    Args:
        log_prob: log-density of the action taken (a log-ratio to constants serves as well).
        advantage: estimate of the advantage, in units of the reward.
        weights: optional weight of each example.
    """
    return weighted(-log_prob * advantage, weights)


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
        clip: half-width of the interval around 1 within which the ratio has a gradient.
        weights: optional weight of each example.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return weighted(-jnp.minimum(ratio * advantage, clipped * advantage), weights)


def value_gradient(
    mean: Float[Array, "batch ..."],
    gradient: Float[Array, "batch ..."],
    *,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    r"""Return -<gradient, mean>, whose gradient in the policy is (2).

    Args:
        mean: conditional mean of the next state under the policy, shape (batch, ...).
        gradient: \nabla V at the next state, of the same shape, held fixed.
        weights: optional weight of each example.
    """
    product = (mean * gradient).reshape(mean.shape[0], -1)
    return weighted(-jnp.sum(product, axis=1), weights)
