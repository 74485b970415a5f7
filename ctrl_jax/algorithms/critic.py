r"""The value network of a fine-tuning run: evaluated along trajectories, fitted to their returns.

Fitting minimises the martingale loss (`losses.value`) of the penalised return to go,

    E \sum_i (R - lambda \sum_{j>=i} KL_j - V(t_i, x_i))^2 / 2,                            (1)

over minibatches of grid points, the terminal one included.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import apply_gradient
from ctrl_jax.algorithms.policy_update import minibatch_indices
from ctrl_jax.losses import advantage, value


class Critic(NamedTuple):
    """A value network, its optimiser, and whether the policy loss needs its gradient in x."""

    model: Model
    optimizer: optax.GradientTransformation
    with_gradient: bool = False


def evaluate_critic(critic, learner, problem, rollout, batch):
    """Values at t_0 .. t_{n-1} and, where asked for, gradients at t_1 .. t_n; time-major."""
    if critic is None:
        return None, None

    def evaluate(inputs):
        t, x = inputs
        return critic.model.apply(learner.params, t, x, *batch.conditions)

    def gradient(inputs):
        t, x = inputs
        return jax.grad(
            lambda x: jnp.sum(critic.model.apply(learner.params, t, x, *batch.conditions))
        )(x)

    times = problem.forward_times()
    values = jax.lax.map(evaluate, (times[:-1], rollout.states[:-1]))
    if not critic.with_gradient:
        return values, None
    kernel = problem.kernel()
    std = kernel.std.reshape((-1,) + (1,) * (rollout.noise.ndim - 1))
    expected = rollout.states[1:] - std * rollout.noise
    return values, jax.lax.map(gradient, (times[1:], expected))


def returns_from(problem, rollout) -> Float[Array, "steps+1 batch"]:
    """Penalised return from every grid point on; the last is the reward."""
    to_go = advantage.returns_to_go(-problem.penalty * rollout.kl, rollout.rewards)
    return jnp.concatenate([to_go, rollout.rewards[None]])


def fit_critic(key, critic, learner, problem, rollout, batch, config):
    """Minimise (3) over minibatches of the grid points of every trajectory."""
    states = jnp.swapaxes(rollout.states, 0, 1)
    returns = jnp.swapaxes(returns_from(problem, rollout), 0, 1)
    times = problem.forward_times()
    index = minibatch_indices(
        key,
        *returns.shape,
        epochs=config.value_epochs,
        minibatches=config.value_minibatches,
    )
    share = batch.weights / jnp.sum(batch.weights)

    def loss_fn(params, index):
        k = index.shape[1]
        x = jax.vmap(lambda row, i: row[i])(states, index)
        target = jnp.take_along_axis(returns, index, axis=1).reshape(-1)
        conditions = tuple(jnp.repeat(c, k, axis=0) for c in batch.conditions)
        rows = x.reshape(-1, *x.shape[2:])
        predicted = critic.model.apply(params, times[index.reshape(-1)], rows, *conditions)
        weights = jnp.repeat(share / k, k, axis=0)
        return jnp.sum(value.martingale(predicted, target, weights=weights))

    def body(learner, index):
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params, index)
        learner, finite = apply_gradient(learner, gradient, critic.optimizer)
        return learner, (loss, finite)

    learner, (losses, finite) = jax.lax.scan(body, learner, index)
    metrics = {"value/loss": jnp.mean(losses), "value/finite": jnp.min(finite.astype(losses.dtype))}
    return learner, metrics


def explained_variance(problem, rollout, values):
    returns = returns_from(problem, rollout)[:-1]
    return 1 - jnp.var(returns - values) / jnp.maximum(jnp.var(returns), 1e-12)
