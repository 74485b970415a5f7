"""Episodes of a reward-directed sampler under a Gaussian policy of known covariance.

Beside the noise of the state there is that of the actions, and the estimate of the score is random
too, so the steps are taken here, by the solver's `Kernel`, and not by `solvers.simulate`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import refuse
from ctrl_jax._numerics import failure_of
from ctrl_jax._typing import Model, Params
from ctrl_jax.algorithms.diffusion.problem import Batch
from ctrl_jax.algorithms.q_learning.problem import Coefficients, RewardDirection


class Transition(NamedTuple):
    """One step of every episode; or all of them, time-major.

    Fields:
        states: before the step, (batch, ...) or (steps, batch, ...).
        actions: drawn from the policy.
        scores: estimated score.
        twins: a second, independent estimate where the problem asks for one; else the same.
        noise: what the step added to its mean, std z.
    """

    states: Float[Array, "..."]
    actions: Float[Array, "..."]
    scores: Float[Array, "..."]
    twins: Float[Array, "..."]
    noise: Float[Array, "..."]


class Episodes(NamedTuple):
    """Whole episodes: transitions (steps, batch, ...), last states, w h of them, `failure_of`."""

    transitions: Transition
    last: Float[Array, "batch ..."]
    values: Float[Array, " batch"]
    failed_at: Int[Array, " batch"]


def advance(
    key: Array,
    problem: RewardDirection,
    policy: Model,
    params: Params,
    coefficients: Coefficients,
    x: Float[Array, "batch ..."],
    batch: Batch,
) -> tuple[Float[Array, "batch ..."], Transition]:
    """Take one step of every episode; `coefficients` are those of the step."""
    score_key, action_key, noise_key = jax.random.split(key, 3)
    conditions = batch.gathered()
    score = problem.estimate(score_key, coefficients.time, x, *conditions)
    twin = score
    if problem.paired:
        twin_key = jax.random.fold_in(score_key, 1)
        twin = problem.estimate(twin_key, coefficients.time, x, *conditions)
    mean = policy.apply(params, coefficients.time, x, *conditions)
    _check_shape("estimate", score, x)
    _check_shape("policy", mean, x)
    std = problem.action_std(coefficients.rate)
    action = mean + std * jax.random.normal(action_key, x.shape, x.dtype)
    noise = coefficients.kernel.std * jax.random.normal(noise_key, x.shape, x.dtype)
    moved = coefficients.kernel.mean(x, action) + noise
    return moved, Transition(x, action, score, twin, noise)


def run_episodes(
    key: Array, problem: RewardDirection, policy: Model, params: Params, batch: Batch
) -> Episodes:
    """Simulate one batch of episodes under a policy's mean and the known covariance.

    Args:
        key: PRNG key; an episode depends on the key, the step and its row only.
        problem: what is controlled.
        policy: mean of the action, ``apply(params, t, x, *conditions)``.
        params: its parameters.
        batch: weights and conditions.
    """
    start_key, path_key = jax.random.split(key)
    x_0 = problem.start(start_key, batch)

    def body(x, inputs):
        step, coefficients = inputs
        step_key = jax.random.fold_in(path_key, step)
        return advance(step_key, problem, policy, params, coefficients, x, batch)

    inputs = (jnp.arange(problem.steps), problem.coefficients())
    last, transitions = jax.lax.scan(body, x_0, inputs)
    failed_at = failure_of(jnp.concatenate([transitions.states, last[None]]))
    return Episodes(transitions, last, problem.end_values(last, batch), failed_at)


def _check_shape(name, value, x):
    if jnp.shape(value) != jnp.shape(x):
        rule = f"it must be x's shape {jnp.shape(x)}"
        repair = f"return an array of that shape from the {name}"
        raise refuse(f"the {name}'s shape", jnp.shape(value), rule, repair)


def penalty_rates(
    rate: Float[Array, " k"], transitions: Transition, actions: Float[Array, "k batch ..."]
) -> Float[Array, "k batch"]:
    """Return g^2 |s - a|^2 of (2), per unit of time; of two estimates where there are two."""
    first, second = transitions.scores - actions, transitions.twins - actions
    return rate[:, None] * jnp.sum((first * second).reshape(*actions.shape[:2], -1), axis=2)
