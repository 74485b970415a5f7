r"""DPOK: clipped ratios with penalized returns to go, without a value network (2305.16381).

A policy gradient with a penalty, its importance weights clipped like DDPO's; here with the full
gradient of the penalized objective, the divergence still to come being part of the return:

    A_i = R - lambda \sum_{j>=i} KL_j - mean over the batch,                              (1)

and the direct term lambda KL_i(mu_theta) beside it. (The original drops the first of the two KL
terms, and then its fixed point is not the tilted law.)
"""

import jax.numpy as jnp
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.diffusion.actor_critic import DEFAULT_POLICY_UPDATE, Control, make_control
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, clipped
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl, path_price
from ctrl_jax.losses import advantage


def make_dpok(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.2,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    """Return DPOK: clipped ratios with the penalized return to go, less the batch's mean.

    Args:
        problem: what to control.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        clip: half-width of the interval for the ratio of a step.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: clip is not positive, or the minibatches do not divide the solver steps.
    """
    surrogate = clipped(clip)
    return make_control(
        problem, policy_model, optimizer, surrogate, centered_returns, update=update
    )


def centered_returns(problem, rollout, rewards, values):
    """Return the advantages (1)."""
    returns = advantage.returns_to_go(-path_price(problem, rollout), rewards)
    weights = rollout.batch.weights
    return returns - (returns @ (weights / jnp.sum(weights)))[:, None]
