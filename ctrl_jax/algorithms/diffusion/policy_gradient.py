r"""The plain policy gradient of continuous time: -A_i log pi_theta(x_{i+1} | x_i) (2409.08400)."""

import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.diffusion.actor_critic import (
    DEFAULT_POLICY_UPDATE,
    Control,
    generalized_advantage,
    make_control,
)
from ctrl_jax.algorithms.diffusion.critic import Critic
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, Surrogate
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl
from ctrl_jax.losses import policy


def make_policy_gradient(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    critic: Critic,
    *,
    trace: float = 0.9,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    """Return the continuous-time policy gradient with generalized advantages.

    Args:
        problem: what to control.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        critic: value network.
        trace: in [0, 1], decay of the advantage: 0 trusts the value, 1 the trajectory.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: trace is out of range, or the minibatches do not fit the solver steps.
    """
    surrogate = Surrogate(
        lambda rows, _, log_ratio: policy.policy_gradient(log_ratio, rows.advantages)
    )
    advantages = generalized_advantage(trace)
    return make_control(
        problem, policy_model, optimizer, surrogate, advantages, critic=critic, update=update
    )
