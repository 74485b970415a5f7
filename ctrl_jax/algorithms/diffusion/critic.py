r"""The value network of a fine-tuning run: evaluated along trajectories, fitted to their returns.

Fitting minimizes the martingale loss (`losses.value`) of the penalized return to go,

    E \sum_i (R - lambda \sum_{j>=i} KL_j - V(t_i, x_i))^2 / 2,                            (1)

over minibatches of grid points, the terminal one included.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Learner, apply_gradient
from ctrl_jax.algorithms.diffusion.policy_update import arrange, minibatch_order, minibatch_passes
from ctrl_jax.algorithms.diffusion.problem import (
    Batch,
    DiffusionControl,
    Rollout,
    along_path,
)
from ctrl_jax.losses import advantage, value


class Critic(NamedTuple):
    """A value network and its optimizer.

    Fields:
        model: V(t, x, *conditions).
        optimizer: optax transformation.
        gradient_at: where the policy loss needs the gradient of V(t_{i+1}, .): at the next state
            x_{i+1} itself, at its conditional mean m_i (a control variate), or nowhere.
    """

    model: Model
    optimizer: optax.GradientTransformation
    gradient_at: Literal["next", "mean"] | None = None


class Evaluated(NamedTuple):
    """The critic along a rollout, time-major.

    Fields:
        observations: what the value network sees of every state, x_i itself by default.
        values: V(t_i, x_i) for i < n.
        expected: V(t_{i+1}, .) at ``gradient_at``; None where no gradient is needed.
        gradients: its gradient there; None likewise.
    """

    observations: Float[Array, "points batch ..."]
    values: Float[Array, "steps batch"]
    expected: Float[Array, "steps batch"] | None
    gradients: Float[Array, "steps batch ..."] | None


def evaluate_critic(
    critic: Critic, learner: Learner, problem: DiffusionControl, rollout: Rollout, batch: Batch
) -> Evaluated:
    """Evaluate the critic, and its gradient where asked for, along a rollout."""

    def observe(t, x):
        return x if critic.model.observe is None else critic.model.observe(t, x, *batch.conditions)

    def value_fn(t, observation):
        return critic.model.apply(learner.params, t, observation, *batch.conditions)

    def value_and_gradient(t, x):
        values, pull_back = jax.vjp(lambda x: value_fn(t, observe(t, x)), x)
        return values, pull_back(jnp.ones_like(values))[0]

    times = problem.forward_times()
    observations = along_path(observe, times, rollout.states)
    values = along_path(value_fn, times[:-1], observations[:-1])
    if critic.gradient_at is None:
        return Evaluated(observations, values, None, None)
    states = rollout.states[1:]
    if critic.gradient_at == "mean":
        states = states - _noise_step(problem, rollout)
    expected, gradients = along_path(value_and_gradient, times[1:], states)
    return Evaluated(observations, values, expected, gradients)


def remove_martingale(
    advantages: Float[Array, "steps batch"],
    evaluated: Evaluated,
    problem: DiffusionControl,
    rollout: Rollout,
) -> Float[Array, "steps batch"]:
    r"""Return the advantages less what the critic knows of them: a control variate.

    The part \nabla V(t_{i+1}, m_i) . std_i z_i is a martingale increment whose contribution to the
    policy gradient is known without noise (`losses.policy.value_gradient` at m_i), and the baseline
    becomes V(t_{i+1}, m_i), the critic's own prediction from the same state. Both are functions of
    x_i times at most the noise, so the gradient's expectation does not change.
    """
    assert evaluated.expected is not None and evaluated.gradients is not None
    product = evaluated.gradients * _noise_step(problem, rollout)
    increment = jnp.sum(product.reshape(*advantages.shape, -1), axis=2)
    baseline = evaluated.expected - evaluated.values - problem.penalty * rollout.kl
    return advantages - baseline - increment


def _noise_step(problem, rollout):
    std = problem.kernel().std
    return std.reshape((-1,) + (1,) * (rollout.noise.ndim - 1)) * rollout.noise


def returns_from(problem, rollout) -> Float[Array, "points batch"]:
    """Penalized return from every grid point on; the last is the reward."""
    to_go = advantage.returns_to_go(-problem.penalty * rollout.kl, rollout.rewards)
    return jnp.concatenate([to_go, rollout.rewards[None]])


def fit_critic(key, critic, learner, problem, rollout, evaluated, batch, config):
    """Minimize (1) over minibatches of the grid points of every trajectory."""
    observations = jnp.swapaxes(evaluated.observations, 0, 1)
    returns = jnp.swapaxes(returns_from(problem, rollout), 0, 1)
    order_key, pass_key = jax.random.split(key)
    size, points = returns.shape
    order = minibatch_order(order_key, size, points, config.value_minibatches)
    seen, targets = arrange(observations, order), arrange(returns, order)
    times = problem.forward_times()[order.reshape(order.shape[0], -1)]
    k = order.shape[2]
    share = jnp.repeat(batch.weights / jnp.sum(batch.weights) / k, k, axis=0)
    conditions = tuple(jnp.repeat(c, k, axis=0) for c in batch.conditions)

    def loss_fn(params, m):
        predicted = critic.model.apply(params, times[m], seen[m], *conditions)
        return jnp.sum(value.martingale(predicted, targets[m], weights=share))

    def body(learner, m):
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params, m)
        learner, finite = apply_gradient(learner, gradient, critic.optimizer)
        return learner, (loss, finite)

    passes = minibatch_passes(pass_key, config.value_minibatches, config.value_epochs)
    learner, (losses, finite) = jax.lax.scan(body, learner, passes)
    metrics = {"value/loss": jnp.mean(losses), "value/finite": jnp.min(finite.astype(losses.dtype))}
    return learner, metrics


def explained_variance(problem, rollout, values, batch):
    """Share of the variance of the returns, over steps and trajectories, that the values hold."""
    share = batch.weights / (jnp.sum(batch.weights) * values.shape[0])

    def variance(x):
        return jnp.sum(jnp.square(x - jnp.sum(x @ share)) @ share)

    returns = returns_from(problem, rollout)[:-1]
    return 1 - variance(returns - values) / jnp.maximum(variance(returns), 1e-12)
