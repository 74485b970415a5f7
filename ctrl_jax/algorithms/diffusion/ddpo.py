r"""DDPO: discrete-time PPO on the denoising chain, by terminal rewards only (2305.13301).

The standardized terminal reward is the advantage of every step; there is no value network and no
penalty:

    A_i = (R - mean R) / std R,  mean and std over the batch, per prompt.                 (1)
"""

import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.diffusion.actor_critic import DEFAULT_POLICY_UPDATE, Control, make_control
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, clipped
from ctrl_jax.algorithms.diffusion.problem import Batch, DiffusionControl


def make_ddpo(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.2,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    """Return DDPO: clipped ratios with the standardized terminal reward, (R - mean R) / std R.

    Args:
        problem: what to control; its penalty must be 0, which DDPO has no place for.
        policy_model: the acting score; its ``init`` returns the pretrained parameters.
        optimizer: of the policy.
        clip: half-width of the interval for the ratio of a step.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: the problem has a penalty, clip is not positive, or the minibatches do not
            divide the solver steps.
    """
    if not isinstance(problem.penalty, Tracer) and float(problem.penalty) != 0:
        rule = "DDPO has no KL penalty"
        raise refuse("penalty", problem.penalty, rule, "set it to 0, or use make_dpok")
    return make_control(
        problem, policy_model, optimizer, clipped(clip), standardized_reward, update=update
    )


def standardized_reward(problem, rollout, rewards, values):
    """Return the advantages (1)."""
    return jnp.broadcast_to(standardize(rewards, rollout.batch)[None], rollout.kl.shape)


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
