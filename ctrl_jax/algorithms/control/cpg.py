r"""Policy gradient in continuous time (CPG): one optimizer step per batch along

    \nabla \eta = E_{d, \pi}[\nabla log \pi(a|x) (q - \gamma log \pi)]/\beta,              (1)

with samples of the occupation measure d and q estimated by the critic (`continuous_control`). The
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
    PolicyUpdate,
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
    """Return CPG; arguments and errors as in `continuous_control.make_continuous_control`."""
    return make_continuous_control(
        problem,
        policy_model,
        value_model,
        optimizer,
        value_optimizer,
        gradient_update(policy_model, optimizer),
        occupation=occupation,
    )


def gradient_update(policy_model: Model, optimizer: optax.GradientTransformation) -> PolicyUpdate:
    """Return the update that takes one optimizer step along (1)."""

    def update(state, samples):
        def loss_fn(params):
            mean, std = policy_model.apply(params, jnp.zeros(()), samples.states)
            log_prob = gaussian.log_prob(mean, std, samples.actions)
            losses = policy.policy_gradient(log_prob, samples.advantages, weights=samples.weights)
            return jnp.sum(losses)

        gradient = jax.grad(loss_fn)(state.policy.params)
        learner, finite = apply_gradient(state.policy, gradient, optimizer)
        metrics = {
            "policy/gradient_norm": optax.tree.norm(gradient),
            "update/finite": finite.astype(samples.weights.dtype),
        }
        return state._replace(policy=learner), metrics

    return update
