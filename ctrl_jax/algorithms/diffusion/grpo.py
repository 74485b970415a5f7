r"""GRPO: rewards compared within the group of one prompt, without a value network (2505.05470).

Every prompt has a group of trajectories, and the advantage of each step of one is what its end is
worth beside the others,

    A_i = (G_i - mean G_i) / s,   G_i = R - lambda \sum_{j >= i} KL_j,                     (1)

with the mean over the group and s the standard deviation of R in it ("group"), in the whole batch
("batch"), or 1 ("none"). The policy descends a surrogate of the ratio, and the penalty acts
directly through the mean,

    E \sum_i [surrogate(ratio_i, A_i) + lambda KL_i(mu_theta)].                            (2)

With s = 1 this is the gradient of E R - lambda KL, exactly: the mean is then that of the others,
since one that holds the trajectory's own reward shrinks (1) by 1 - 1 / G and not the second term of
(2). A standard deviation in the place of 1 makes the penalty lambda s in units of the reward: of
each prompt its own, and falling as the rewards of the policy come to agree. (The published forms
leave the divergence out of G_i, and then their fixed point is not the tilted law.)

Groups whose rewards do not differ beyond rounding have no advantage, and `reward/zero_spread`
counts them. The trust region is a clipped ratio, or the divergence from the old policy itself,
which for Gaussian steps is exact (`losses.policy`, (6)). Noise in a few steps only is a `Window`.

Source: Liu et al. 2505.05470 (Flow-GRPO); Xue et al. 2505.07818 (DanceGRPO); Liu et al. 2503.20783
(Dr. GRPO, s = 1); Ping et al. 2606.11025 (the mask).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, check_positive, refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Metrics
from ctrl_jax.algorithms.diffusion.actor_critic import (
    DEFAULT_POLICY_UPDATE,
    AdvantageFn,
    Control,
    Scoring,
    make_control,
)
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, clipped, masked
from ctrl_jax.algorithms.diffusion.problem import Batch, DiffusionControl, path_price
from ctrl_jax.losses import advantage


def make_grpo(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    *,
    clip: float | None = None,
    scale: str = "group",
    mask: float | None = None,
    clamp: float | None = None,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    """Return GRPO: each trajectory's reward less the mean of its prompt's group, over a spread.

    Args:
        problem: what to control; its penalty is in units of what the rewards are divided by.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        clip: half-width of the interval for the ratio of a step; 0.2 by default, none with a mask.
        scale: what the differences are divided by: the standard deviation of the rewards of the
            "group", of the "batch", or "none", which has the optimum of the penalized objective.
        mask: in the place of clipping, divergence of a step from the old policy, in nats, beyond
            which it gives no gradient that leads farther.
        clamp: largest advantage in absolute value, in units of the scale; none by default.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`, whose `prompts` are the groups.

    Raises:
        ValueError: clip, mask or clamp is not positive, both of the first are given, the scale is
            not known, or the minibatches do not divide the steps learned from.

    Source: Liu et al. 2505.05470; Liu et al. 2503.20783 for "none".
    """
    check_choice("scale", scale, ("group", "batch", "none"))
    if clip is not None and mask is not None:
        raise refuse("mask", mask, f"it stands in the place of clip = {clip!r}", "give one of them")
    if clamp is not None:
        check_positive("clamp", clamp)
    return make_control(
        problem,
        policy_model,
        optimizer,
        masked(mask) if mask is not None else clipped(0.2 if clip is None else clip),
        group_relative(scale, clamp),
        scoring=Scoring(None, _count),
        update=update,
    )


def group_relative(scale: str, clamp: float | None = None) -> AdvantageFn:
    """Return the advantage (1) with s by its name, "group", "batch" or "none", within +-clamp."""

    def advantages(problem, rollout, rewards, values):
        batch = rollout.batch
        _, std = _spread(rewards, batch)
        over = std
        if scale == "batch":
            _, over = advantage.spread(rewards, weights=batch.weights)
        elif scale == "none":
            over = _share_of_others(batch)

        def of_step(returns_i):
            centered, _ = _spread(returns_i, batch)
            found = jnp.where(std == 0, 0.0, advantage.over_spread(centered, over))
            return found if clamp is None else jnp.clip(found, -clamp, clamp)

        returns = advantage.returns_to_go(-path_price(problem, rollout), rewards)
        return jax.lax.map(of_step, returns)

    return advantages


def _spread(values: Array, batch: Batch) -> tuple[Array, Array]:
    return advantage.spread(values, weights=batch.weights, groups=batch.prompts)


def _share_of_others(batch: Batch) -> Float[Array, " batch"]:
    """Weight of the others in each trajectory's group: R - mean over it is R - mean of these."""
    ids = jnp.zeros((1,), jnp.int32) if batch.prompts is None else batch.prompts
    whole = jnp.where(ids[:, None] == ids[None, :], batch.weights[None, :], 0.0).sum(axis=1)
    return 1 - batch.weights / jnp.maximum(whole, jnp.finfo(whole.dtype).tiny)


def _count(memory: Any, rewards: Array, batch: Batch) -> tuple[Any, Array, Metrics]:
    """Rewards as they are, and how many groups have no spread of them."""
    _, std = _spread(rewards, batch)
    count = advantage.count_without_spread(std, weights=batch.weights, groups=batch.prompts)
    return memory, rewards, {"reward/zero_spread": count}
