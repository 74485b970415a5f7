r"""DDPO and DPOK: fine-tuning by terminal rewards only, without a value network.

DDPO (2305.13301) is discrete-time PPO on the denoising chain, with the standardized terminal reward
as the advantage of every step and no penalty:

    A_i = (R - mean R) / std R,  mean and std over the batch, per prompt.                 (1)

DPOK (2305.16381) is a policy gradient with a penalty, its importance weights clipped like DDPO's;
here with the full gradient of the penalized objective, the divergence still to come being part of
the return:

    A_i = R - lambda \sum_{j>=i} KL_j - mean over the batch,                              (2)

and the direct term lambda KL_i(mu_theta) beside it. (The original drops the first of the two KL
terms, and then its fixed point is not the tilted law.)
"""

import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm
from ctrl_jax.algorithms.diffusion.actor_critic import DEFAULT_UPDATE, UpdateConfig, make_control
from ctrl_jax.algorithms.diffusion.problem import Batch, DiffusionControl, Rollout
from ctrl_jax.losses import advantage, policy


def make_ddpo(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    config: UpdateConfig = DEFAULT_UPDATE,
) -> Algorithm:
    """Return DDPO (1): clipped ratios with the standardized terminal reward.

    Args:
        problem: what to control; its penalty must be 0, which DDPO has no place for.
        policy_model: the acting score; its ``init`` returns the pretrained parameters.
        optimizer: of the policy.
        config: how a batch is used (the fields of the value do not apply).

    Raises:
        ValueError: the problem has a penalty.
    """
    if not isinstance(problem.penalty, Tracer) and float(problem.penalty) != 0:
        raise ValueError(
            f"make_ddpo: DDPO has no KL penalty, got penalty {problem.penalty}; set it to 0, or "
            "use make_dpok."
        )

    def surrogate(rows, score, log_ratio):
        return policy.clipped_surrogate(log_ratio, rows.advantages, clip=config.clip)

    def standardized(rollout: Rollout, values, batch: Batch):
        scores = standardize(rollout.rewards, batch)
        return jnp.broadcast_to(scores[None], rollout.kl.shape)

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=None,
        config=config,
        advantage_fn=standardized,
        clip=config.clip,
    )


def make_dpok(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    config: UpdateConfig = DEFAULT_UPDATE,
) -> Algorithm:
    """Return DPOK (2): clipped ratios with returns to go; arguments as `make_ddpo`."""

    def surrogate(rows, score, log_ratio):
        return policy.clipped_surrogate(log_ratio, rows.advantages, clip=config.clip)

    def centered_returns(rollout: Rollout, values, batch: Batch):
        returns = advantage.returns_to_go(-problem.penalty * rollout.kl, rollout.rewards)
        share = batch.weights / jnp.sum(batch.weights)
        return returns - (returns @ share)[:, None]

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=None,
        config=config,
        advantage_fn=centered_returns,
        clip=config.clip,
    )


def standardize(rewards: Float[Array, " batch"], batch: Batch) -> Float[Array, " batch"]:
    """Return (R - mean) / std over the trajectories of the same prompt, or over all."""
    if batch.prompts is None:
        share = batch.weights / jnp.sum(batch.weights)
        centered = rewards - jnp.sum(share * rewards)
        return centered / (jnp.sqrt(jnp.sum(share * centered**2)) + 1e-8)
    same = _same_prompt(batch)
    centered = rewards - same @ rewards
    # Every row of a prompt has the same mean, so its own centered rewards give its variance.
    return centered / (jnp.sqrt(same @ centered**2) + 1e-8)


def _same_prompt(batch: Batch) -> Float[Array, "batch batch"]:
    assert batch.prompts is not None
    equal: Array = batch.prompts[:, None] == batch.prompts[None, :]
    shares = equal * batch.weights[None, :]
    return shares / jnp.maximum(jnp.sum(shares, axis=1, keepdims=True), 1e-12)
