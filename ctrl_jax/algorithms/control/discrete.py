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

from ctrl_jax._checks import check_unused
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm
from ctrl_jax.algorithms.control.actor_critic import (
    DEFAULT_OCCUPATION,
    ContinuousControl,
    OccupationConfig,
    PolicyUpdate,
    make_continuous_control,
)
from ctrl_jax.algorithms.control.cpg import gradient_update
from ctrl_jax.algorithms.control.cppo import ProximalConfig, proximal_update


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
    """Return the advantage actor-critic of discrete time, with the generalized advantages (1).

    Args:
        problem, policy_model, value_model, optimizer, value_optimizer: as in
            `continuous_control.make_continuous_control`.
        trace: in (0, 1), decay per step.
        occupation: gives `draws` and `value_epochs`; the rest is discrete time's.

    Raises:
        ValueError: trace is not in (0, 1), `occupation` sets what discrete time decides.
    """
    update = gradient_update(policy_model, optimizer)
    return make_continuous_control(
        problem,
        policy_model,
        value_model,
        optimizer,
        value_optimizer,
        _per_step(problem, update, standardize=False),
        occupation=discrete_occupation(problem, trace, occupation),
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
    """Return PPO with clipped ratios and standardized advantages (1); the rest as above.

    Args:
        problem, policy_model, value_model, value_optimizer, trace, occupation: as above.
        optimizer: of the policy, started afresh in every update.
        clip: half-width of the interval of the ratio.
        epochs: optimizer steps per update.
    """
    config = ProximalConfig(penalty="clipped", clip=clip, epochs=epochs)
    # Without the exact second term of CPPO, which PPO does not have.
    update = proximal_update(policy_model, optimizer, config, temperature=0.0)
    return make_continuous_control(
        problem,
        policy_model,
        value_model,
        optimizer,
        value_optimizer,
        _per_step(problem, update, standardize=True),
        occupation=discrete_occupation(problem, trace, occupation),
    )


def discrete_occupation(
    problem: ContinuousControl, trace: float, occupation: OccupationConfig
) -> OccupationConfig:
    """Return discrete time's way of making samples, with a memory that is fixed in steps.

    Raises:
        ValueError: trace is not in (0, 1), `occupation` sets what discrete time decides.
    """
    if not 0 < trace < 1:
        raise ValueError(f"trace must lie in (0, 1), got {trace}.")
    decided = ("occupation", "estimator", "memory", "value_loss")
    check_unused(occupation, decided, "discrete time decides it")
    return dataclasses.replace(
        occupation,
        occupation="uniform",
        estimator="generalized",
        value_loss="temporal_difference",
        memory=-problem.dt / math.log(trace),
    )


def _per_step(problem: ContinuousControl, update: PolicyUpdate, *, standardize: bool):
    def per_step(state, samples):
        advantages = problem.dt * samples.advantages
        if standardize:
            centered = advantages - jnp.mean(advantages)
            advantages = centered / (jnp.std(advantages) + 1e-8)
        return update(state, samples._replace(advantages=advantages))

    return per_step
