r"""The pathwise form of the policy gradient, <\nabla V, dX>, without noise (2409.08400).

q is linear in the action, so its gradient is that of the value at the next state; no advantage is
estimated.
"""

import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.diffusion.actor_critic import DEFAULT_POLICY_UPDATE, Control, make_control
from ctrl_jax.algorithms.diffusion.critic import Critic
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, Surrogate
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl
from ctrl_jax.losses import policy


def make_value_gradient(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    critic: Critic | None = None,
    *,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    r"""Return ascent of the value through the mean of every step.

    With x_{i+1} = m_i(x_i) + std_i z_i the step of the sampler, whose mean m_i the policy's
    parameters theta move, the policy climbs

        E \sum_i [\nabla V(t_{i+1}, x_{i+1}) . m_i(theta) - lambda KL_i(theta)].

    Without a value network, the derivative of R(x_n) - lambda \sum_{j > i} KL_j by x_{i+1}, the
    noise of the path held, stands for \nabla V: backpropagation through the sampler. The first
    optimizer step on a batch then has the exact gradient of the objective; later ones follow the
    derivatives of the policy before. A reward without a derivative teaches nothing.

    Args:
        problem: what to control.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        critic: value network, differentiable in the state; None for the derivative of
            ``problem.reward_fn`` along the path. `learn` then takes the rewards that it is given
            for the metrics alone, and its policy must be the one that drew the trajectories.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: the minibatches do not fit the solver steps; without a critic, the problem has
            no `reward_fn`, or a window.

    Source: arXiv 2409.08400; without a critic arXiv 2309.17400, and of the penalty 2409.08861.
    """

    def loss(rows, score, log_ratio):
        return policy.value_gradient(rows.kernel.mean(rows.states, score), rows.gradients)

    surrogate = Surrogate(loss, gradient_at="next")
    return make_control(
        problem, policy_model, optimizer, surrogate, None, critic=critic, update=update
    )
