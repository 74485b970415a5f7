r"""Continuous-time PPO on the chain of a sampler: clipped ratios of transitions (2409.08400).

The surrogate is that of clipped ratios with the generalized advantage. With a control variate,
what the critic predicts of the advantage, \nabla V(t_{i+1}, m_i) . std_i z_i, is taken out of the
ratio's noise, and its exact gradient, that of V(t_{i+1}, m_i) through the mean m_i(theta), is added
instead: the expectation of the gradient stays (`critic.remove_martingale`).
"""

import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.diffusion.actor_critic import (
    DEFAULT_POLICY_UPDATE,
    Control,
    generalized_advantage,
    make_control,
)
from ctrl_jax.algorithms.diffusion.critic import Critic
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, Surrogate, clipped
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl
from ctrl_jax.losses import policy


def make_ppo(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    critic: Critic,
    *,
    trace: float = 0.9,
    clip: float = 0.2,
    control_variate: bool = True,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    """Return continuous-time PPO: clipped ratios of transitions with generalized advantages.

    Args:
        problem: what to control.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        critic: value network.
        trace: in [0, 1], decay of the advantage: 0 trusts the value, 1 the trajectory.
        clip: half-width of the interval for the ratio of a step.
        control_variate: whether what the critic predicts of the advantage is taken out of the
            ratio's noise, and its exact gradient added instead.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: trace or clip is out of range, or the minibatches do not fit the solver steps.
    """
    surrogate = with_value_gradient(clipped(clip)) if control_variate else clipped(clip)
    advantages = generalized_advantage(trace)
    return make_control(
        problem, policy_model, optimizer, surrogate, advantages, critic=critic, update=update
    )


def with_value_gradient(surrogate: Surrogate) -> Surrogate:
    """Return the surrogate with the value's gradient at the mean of the step added."""

    def loss(rows, score, log_ratio):
        mean = rows.kernel.mean(rows.states, score)
        return surrogate.loss(rows, score, log_ratio) + policy.value_gradient(mean, rows.gradients)

    return surrogate._replace(loss=loss, gradient_at="mean")
