r"""Policy gradient and PPO as discrete time does them, on the same simulator: baselines.

The chain with step h has rewards r h and the discount e^{-\beta h}. Its generalized advantages,

    A_i = \sum_k (e^{-\beta h} trace)^k (h \delta)_{i+k},                                   (1)

forget at a rate per step, so that their memory in time is l = -h/log(trace) and vanishes with h;
the critic's targets V + A have the same memory. Times are uniform along trajectories rather than
discounted, and PPO standardizes A, whose signal is of order h and its noise of order sqrt(h).
Source: arXiv 1506.02438, 1707.06347; what becomes of them as h -> 0: arXiv 2305.18901.
"""

import dataclasses
import math

import jax.numpy as jnp
import optax

from ctrl_jax._checks import check_finite, check_unused, refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm
from ctrl_jax.algorithms.control.actor_critic import (
    DEFAULT_OCCUPATION,
    ContinuousControl,
    OccupationConfig,
    PolicyRule,
    make_continuous_control,
)
from ctrl_jax.algorithms.control.cpg import gradient_rule
from ctrl_jax.algorithms.control.cppo import ProximalConfig, proximal_rule
from ctrl_jax.losses import advantage


def make_discrete_policy_gradient(
    problem: ContinuousControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    *,
    trace: float = 0.95,
    occupation: OccupationConfig = DEFAULT_OCCUPATION,
) -> Algorithm:
    r"""Return the advantage actor-critic of discrete time, with generalized advantages.

    The policy follows E[\nabla log pi(a|x) A] with the advantages

        A_i = \sum_k (e^{-beta h} trace)^k h delta_{i+k},
        delta_i = r_i + gamma entropy_i + (e^{-beta h} V_{i+1} - V_i) / h,

    of the chain with step h, where in the first term entropy_i is -log pi(a_i|x_i), later the
    policy's entropy at x_i. r_i is the reward per unit of time, beta the discount of the
    environment, in 1 / time, gamma its temperature, and V_i = V(x_i) the critic. The critic's
    targets are V_i and the same sum with the entropy. Times are uniform along trajectories, not
    discounted.

    Args:
        problem: what to control.
        policy_model: ``apply(params, t, x)`` returns mean and std of the action, (batch, m) each.
        value_model: ``apply(params, t, x)`` returns values (batch,).
        optimizer: of the policy.
        value_optimizer: of the critic.
        trace: in (0, 1), decay per step.
        occupation: gives `draws` and `value_epochs`; the rest is discrete time's.

    Returns:
        The algorithm; its batch is an array of start states, (batch, d).

    Raises:
        ValueError: trace is not in (0, 1), `occupation` sets what discrete time decides.

    Source: arXiv 1506.02438.
    """
    rule = _per_step(problem, gradient_rule(policy_model, optimizer), standardize=False)
    samples = discrete_occupation(problem, trace, occupation)
    return make_continuous_control(
        problem, policy_model, value_model, value_optimizer, rule, occupation=samples
    )


def make_discrete_ppo(
    problem: ContinuousControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    *,
    trace: float = 0.95,
    clip: float = 0.2,
    epochs: int = 10,
    occupation: OccupationConfig = DEFAULT_OCCUPATION,
) -> Algorithm:
    r"""Return PPO of discrete time: clipped ratios with standardized generalized advantages.

    The policy ascends E min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) with A the standardized

        A_i = \sum_k (e^{-beta h} trace)^k h delta_{i+k},
        delta_i = r_i + gamma entropy_i + (e^{-beta h} V_{i+1} - V_i) / h,

    of the chain with step h, where in the first term entropy_i is -log pi(a_i|x_i), later the
    policy's entropy at x_i. r_i is the reward per unit of time, beta the discount of the
    environment, in 1 / time, gamma its temperature, and V_i = V(x_i) the critic. The critic's
    targets are V_i and the same sum with the entropy. Times are uniform along trajectories, not
    discounted.

    Args:
        problem: what to control.
        policy_model: ``apply(params, t, x)`` returns mean and std of the action, (batch, m) each.
        value_model: ``apply(params, t, x)`` returns values (batch,).
        optimizer: of the policy, started afresh in every update.
        value_optimizer: of the critic.
        trace: in (0, 1), decay per step.
        clip: half-width of the interval of the ratio.
        epochs: optimizer steps per update.
        occupation: gives `draws` and `value_epochs`; the rest is discrete time's.

    Returns:
        The algorithm; its batch is an array of start states, (batch, d).

    Raises:
        ValueError: trace is not in (0, 1), `occupation` sets what discrete time decides.

    Source: Schulman et al. 2017 (arXiv 1707.06347); the advantages arXiv 1506.02438.
    """
    config = ProximalConfig(penalty="clipped", clip=clip, epochs=epochs)
    # Without the exact second term of CPPO, which PPO does not have.
    rule = proximal_rule(policy_model, optimizer, config, temperature=0.0)
    samples = discrete_occupation(problem, trace, occupation)
    rule = _per_step(problem, rule, standardize=True)
    return make_continuous_control(
        problem, policy_model, value_model, value_optimizer, rule, occupation=samples
    )


def discrete_occupation(
    problem: ContinuousControl, trace: float, occupation: OccupationConfig
) -> OccupationConfig:
    """Return discrete time's way of making samples, with a memory that is fixed in steps.

    Raises:
        ValueError: trace is not in (0, 1), `occupation` sets what discrete time decides.
    """
    if not 0 < check_finite("trace", trace) < 1:
        raise refuse("trace", trace, "it must lie in (0, 1)", "give a decay per step such as 0.95")
    decided = ("occupation", "estimator", "memory", "value_loss")
    check_unused(occupation, decided, "discrete time decides it")
    return dataclasses.replace(
        occupation,
        occupation="uniform",
        estimator="generalized",
        value_loss="temporal_difference",
        memory=-problem.dt / math.log(trace),
    )


def _per_step(problem: ContinuousControl, rule: PolicyRule, *, standardize: bool) -> PolicyRule:
    def per_step(learner, samples):
        advantages = problem.dt * samples.advantages
        if standardize:
            # Differences of values, whose rounding they bear.
            scale = jnp.max(jnp.abs(samples.values))
            advantages = advantage.standardized(advantages, scale=scale)
        return rule.update(learner, samples._replace(advantages=advantages))

    return dataclasses.replace(rule, update=per_step)
