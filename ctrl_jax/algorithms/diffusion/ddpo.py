r"""DDPO: discrete-time PPO on the denoising chain, by terminal rewards only (2305.13301).

The standardized terminal reward is the advantage of every step; there is no value network and no
penalty:

    A_i = (R - mean R) / std R,  mean and std over the batch, per prompt,                 (1)

or over the latest rewards of the prompt, the batch's among them (`PromptStatistics`).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_count, check_positive, refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Metrics
from ctrl_jax.algorithms.diffusion.actor_critic import (
    DEFAULT_POLICY_UPDATE,
    Control,
    Scoring,
    make_control,
)
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, clipped
from ctrl_jax.algorithms.diffusion.problem import Batch, DiffusionControl
from ctrl_jax.losses import advantage


@dataclasses.dataclass(frozen=True)
class PromptStatistics:
    """Mean and standard deviation of each prompt's latest rewards, kept from step to step.

    With few trajectories of a prompt in a batch, or one alone, its own batch has no spread to
    divide by: what was seen of the prompt before has.

    Args:
        prompts: number of prompts; ids lie in [0, prompts), and others are never remembered.
        buffer: rewards that are kept of each prompt, the latest ones.
        least: rewards of a prompt below which it is measured by the whole batch instead.
    """

    prompts: int
    buffer: int = 16
    least: int = 16

    def __post_init__(self):
        owner = "PromptStatistics"
        check_count(f"{owner}.prompts", self.prompts)
        check_count(f"{owner}.buffer", self.buffer, least=2)
        check_count(f"{owner}.least", self.least, least=2)
        if self.least > self.buffer:
            rule = f"a buffer of {self.buffer} never holds so many"
            raise refuse(f"{owner}.least", self.least, rule, "lower it, or keep more")


class Seen(NamedTuple):
    """The latest rewards of every prompt.

    Fields:
        rewards: (prompts, buffer), in a ring.
        number: how many rewards of the prompt there were so far, (prompts,).
    """

    rewards: Float[Array, "prompts buffer"]
    number: Int[Array, " prompts"]


def make_ddpo(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.2,
    statistics: PromptStatistics | None = None,
    clamp: float | None = None,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    """Return DDPO: clipped ratios with the standardized terminal reward, (R - mean R) / std R.

    Rewards without a spread beyond rounding have the advantage 0; the metric ``reward/zero_spread``
    counts the prompts of a batch where that is so.

    Args:
        problem: what to control; its penalty must be 0, which DDPO has no place for.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        clip: half-width of the interval for the ratio of a step.
        statistics: keep mean and spread of each prompt over the steps; by default they are those of
            the trajectories of a prompt in the batch, and a trajectory that is alone there has the
            advantage 0.
        clamp: largest advantage in absolute value, in standard deviations; none by default.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: the problem has a penalty, clip or clamp is not positive, or the minibatches do
            not divide the solver steps.

    Source: Black et al. 2023 (arXiv 2305.13301), with its statistics per prompt.
    """
    if not isinstance(problem.penalty, Tracer) and float(problem.penalty) != 0:
        rule = "DDPO has no KL penalty"
        raise refuse("penalty", problem.penalty, rule, "set it to 0, or use make_dpok")
    if clamp is not None:
        check_positive("clamp", clamp)
    scoring = _by_batch() if statistics is None else _by_memory(statistics)
    return make_control(
        problem,
        policy_model,
        optimizer,
        clipped(clip),
        lambda problem, rollout, scores, values: jnp.broadcast_to(
            scores if clamp is None else jnp.clip(scores, -clamp, clamp), rollout.noise.shape[:2]
        ),
        scoring=scoring,
        update=update,
    )


def standardize(rewards: Float[Array, " batch"], batch: Batch) -> Float[Array, " batch"]:
    """Return (R - mean) / std over the trajectories of the same prompt, or over all."""
    return advantage.standardized(rewards, weights=batch.weights, groups=batch.prompts)


def _by_batch() -> Scoring:
    """(1) over a batch; nothing is remembered."""

    def score(memory, rewards: Array, batch: Batch):
        centered, std = advantage.spread(rewards, weights=batch.weights, groups=batch.prompts)
        return memory, advantage.over_spread(centered, std), _zero_spread(std, batch)

    return Scoring(None, score)


def _by_memory(options: PromptStatistics) -> Scoring:
    """(1) over the latest rewards of each prompt, those of the batch included."""

    def start(dtype) -> Seen:
        shape = (options.prompts, options.buffer)
        return Seen(jnp.zeros(shape, dtype), jnp.zeros(shape[:1], jnp.int32))

    def score(seen: Seen, rewards: Array, batch: Batch):
        ids = jnp.zeros(rewards.shape, jnp.int32) if batch.prompts is None else batch.prompts
        known = (batch.weights > 0) & (ids >= 0) & (ids < options.prompts)
        seen = _remember(seen, rewards, jnp.where(known, ids, options.prompts), options.buffer)
        place = jnp.where(known, ids, 0)
        slots = jnp.arange(options.buffer)[None, :]
        own = advantage.spread_within(
            rewards, seen.rewards[place], slots < seen.number[place, None]
        )
        enough = known & (seen.number[place] >= options.least)
        of_batch = advantage.spread(rewards, weights=batch.weights)
        centered, std = (jnp.where(enough, *both) for both in zip(own, of_batch, strict=True))
        return seen, advantage.over_spread(centered, std), _zero_spread(std, batch)

    return Scoring(start, score)


def _remember(seen: Seen, rewards: Array, ids: Array, buffer: int) -> Seen:
    """Put the rewards of a batch into the rings; an id beyond them is dropped."""
    same = ids[:, None] == ids[None, :]
    before = jnp.sum(jnp.tril(same, -1), axis=1)
    # Of more rewards than a ring holds only the last are put in: no place is written twice.
    late = jnp.sum(same, axis=1) - before <= buffer
    row = jnp.where(late, ids, seen.number.shape[0])
    column = (seen.number.at[ids].get(mode="fill", fill_value=0) + before) % buffer
    return Seen(
        seen.rewards.at[row, column].set(rewards, mode="drop"),
        seen.number.at[ids].add(1, mode="drop"),
    )


def _zero_spread(std: Float[Array, " batch"], batch: Batch) -> Metrics:
    """How many prompts of a batch have rewards without a spread."""
    count = advantage.count_without_spread(std, weights=batch.weights, groups=batch.prompts)
    return {"reward/zero_spread": count}
