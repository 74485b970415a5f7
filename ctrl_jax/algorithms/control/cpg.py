r"""Policy gradient in continuous time (CPG): one optimizer step per batch along

    \nabla \eta = E_{d, \pi}[\nabla log \pi(a|x) (q - \gamma log \pi)]/\beta,              (1)

with samples of the occupation measure d and q estimated by the critic (`actor_critic`). The
entropy bonus has no gradient of its own: E_\pi \nabla log \pi = 0. The factor 1/beta is left to the
learning rate. Source: arXiv 2305.18901, section 3.
"""

import jax
import jax.numpy as jnp
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm, apply_gradient
from ctrl_jax.algorithms.control.actor_critic import (
    DEFAULT_OCCUPATION,
    ContinuousControl,
    OccupationConfig,
    PolicyRule,
    make_continuous_control,
)
from ctrl_jax.losses import gaussian, policy


def make_cpg(
    problem: ContinuousControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    occupation: OccupationConfig = DEFAULT_OCCUPATION,
) -> Algorithm:
    """Return CPG: one step per batch along E[A grad log pi] over the occupation measure.

    Args:
        problem: what to control.
        policy_model: ``apply(params, t, x)`` returns mean and std of the action, (batch, m) each.
        value_model: ``apply(params, t, x)`` returns values (batch,).
        optimizer: of the policy.
        value_optimizer: of the critic.
        occupation: how trajectories become samples.

    Returns:
        The algorithm; its batch is an array of start states, (batch, d).

    Raises:
        ValueError: dt or horizon of the problem is not positive, or dt does not divide it.
    """
    rule = gradient_rule(policy_model, optimizer)
    return make_continuous_control(
        problem, policy_model, value_model, value_optimizer, rule, occupation=occupation
    )


def gradient_rule(policy_model: Model, optimizer: optax.GradientTransformation) -> PolicyRule:
    """Return the rule that takes one optimizer step along (1)."""

    def update(learner, samples):
        def loss_fn(params):
            mean, std = policy_model.apply(params, jnp.zeros(()), samples.states)
            log_prob = gaussian.log_prob(mean, std, samples.actions)
            losses = policy.policy_gradient(log_prob, samples.advantages, weights=samples.weights)
            return jnp.sum(losses)

        gradient = jax.grad(loss_fn)(learner.params)
        learner, finite = apply_gradient(learner, gradient, optimizer)
        return learner, finite, {"policy/gradient_norm": optax.tree.norm(gradient)}

    return PolicyRule(optimizer.init, update)
