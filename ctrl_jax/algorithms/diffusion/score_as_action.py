r"""Fine-tuning a diffusion model by continuous-time RL, the score as the action (2409.08400).

One step: roll out the policy, score the end states, estimate the advantage of every transition from
a value network, take minibatch updates of the policy with the penalty acting directly through the
mean, then fit the value network,

    A_i = \sum_k trace^k [V(t_{i+k+1}, x_{i+k+1}) - lambda KL_{i+k} - V(t_{i+k}, x_{i+k})],    (1)
    policy:  E \sum_i [surrogate(ratio_i, A_i) + lambda KL_i(mu_theta)],                        (2)
    value:   E \sum_i (R - lambda \sum_{j>=i} KL_j - V(t_i, x_i))^2 / 2.                        (3)

With trace = 1, or with the true value, (1) and (2) give the exact gradient of the penalized
objective for the chain: KL_i inside (1) is the price of the future, KL_i in (2) the direct
derivative. All of it is one pure function.

The algorithms differ in the surrogate and in the advantage: `make_ppo` (clipped ratio),
`make_policy_gradient` (score function), `make_value_gradient` (q is linear in the action, so its
gradient is \nabla V), and in `ddpo.py` the two that use terminal rewards only.
"""

import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm
from ctrl_jax.algorithms.diffusion.actor_critic import DEFAULT_UPDATE, UpdateConfig, make_control
from ctrl_jax.algorithms.diffusion.critic import Critic
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl
from ctrl_jax.losses import policy


def make_ppo(
    problem: DiffusionControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: UpdateConfig = DEFAULT_UPDATE,
) -> Algorithm:
    """Return continuous-time PPO: clipped ratios of transitions with the advantage (1).

    Args:
        problem: what to control.
        policy_model: the acting score; its ``init`` returns the pretrained parameters.
        value_model: V(t, x, *conditions), one value per example.
        optimizer: of the policy.
        value_optimizer: of the value.
        config: how a batch is used.

    Returns:
        The algorithm; its batch is a `Batch`.
    """

    def surrogate(rows, score, log_ratio):
        loss = policy.clipped_surrogate(log_ratio, rows.advantages, clip=config.clip)
        if config.control_variate:
            loss += policy.value_gradient(rows.kernel.mean(rows.states, score), rows.gradients)
        return loss

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=Critic(value_model, value_optimizer, "mean" if config.control_variate else None),
        config=config,
        clip=config.clip,
    )


def make_policy_gradient(
    problem: DiffusionControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: UpdateConfig = DEFAULT_UPDATE,
) -> Algorithm:
    """Return plain continuous-time policy gradient with (1); arguments as `make_ppo`."""

    def surrogate(rows, score, log_ratio):
        return policy.policy_gradient(log_ratio, rows.advantages)

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=Critic(value_model, value_optimizer),
        config=config,
    )


def make_value_gradient(
    problem: DiffusionControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: UpdateConfig = DEFAULT_UPDATE,
) -> Algorithm:
    """Return the form <grad V, dX>: no action noise in the gradient; arguments as `make_ppo`."""

    def surrogate(rows, score, log_ratio):
        return policy.value_gradient(rows.kernel.mean(rows.states, score), rows.gradients)

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=Critic(value_model, value_optimizer, "next"),
        config=config,
    )
